/* fib: the n-th Fibonacci number the slow, recursive way, so that there are frames to save.
 *
 * Imports nothing and has no state of its own: whatever a snapshot of it holds is call frames, with
 * one pending operand (the first summand) in every frame that waits for its second call.
 * Built with -fno-optimize-sibling-calls, or the compiler makes half of the recursion a loop.
 */

__attribute__((export_name("fib"))) int fib(int n) {
    if (n < 2) {
        return n;
    }
    return fib(n - 1) + fib(n - 2);
}
