;; Counts the primes above 1,000,000,000 and writes every hundredth of them. It needs nothing but
;; standard output, so all of it can run in a browser.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\24\00\00\00")
  (data (i32.const 64) "prime number 00000000 is 0000000000\n")

  ;; Write a number in decimal digits, `count` of them, from `place` on.
  (func $digits (param $n i64) (param $place i32) (param $count i32)
    (loop $digit
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (i32.store8 (i32.add (local.get $place) (local.get $count))
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
      (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
      (br_if $digit (local.get $count))))

  ;; Whether an odd number has no odd divisor.
  (func $is_prime (param $n i64) (result i32) (local $by i64)
    (local.set $by (i64.const 3))
    (loop $next
      (if (i64.gt_u (i64.mul (local.get $by) (local.get $by)) (local.get $n))
        (then (return (i32.const 1))))
      (if (i64.eqz (i64.rem_u (local.get $n) (local.get $by)))
        (then (return (i32.const 0))))
      (local.set $by (i64.add (local.get $by) (i64.const 2)))
      (br $next))
    (unreachable))

  (func (export "_start") (local $n i64) (local $found i64)
    (local.set $n (i64.const 1000000001))
    (loop $next
      (if (call $is_prime (local.get $n))
        (then
          (local.set $found (i64.add (local.get $found) (i64.const 1)))
          (if (i64.eqz (i64.rem_u (local.get $found) (i64.const 100)))
            (then
              (call $digits (local.get $found) (i32.const 77) (i32.const 8))
              (call $digits (local.get $n) (i32.const 89) (i32.const 10))
              (drop (call $write
                (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))))
      (local.set $n (i64.add (local.get $n) (i64.const 2)))
      (br_if $next (i64.lt_u (local.get $n) (i64.const 2000000000))))))
