/* server: answers requests and counts them in three places, to see whether each survives a move.
 *
 *     request() -> i64    1,000,000 * (counter in memory) + 1,000 * (counter in the global)
 *                         + (counter in the table)
 *
 * There is no _start: the host instantiates the module and calls `request` as often as it likes.
 * A request takes some seconds in an interpreter (8 G instructions), in three parts, and one
 * counter goes up before each part. So a snapshot in the middle holds counters that disagree, and
 * only a program that resumed exactly where it was brings them together again:
 *
 *   memory   a variable in linear memory
 *   global   a mutable global of the module, not exported
 *   table    no number at all: a table of functions whose entries *are* the decimal digits.
 *            Counting replaces the entry by the next digit's function (table.set), reading calls
 *            it (call_indirect).
 *
 * The work is a chain in which every round needs the result of the one before; where it must end is
 * known by a short cut. A local or operand that came back wrong makes the request trap.
 *
 * A line on standard error says that a request begins, one on standard output that it has ended;
 * both show the counters.
 *
 * The environment variable ROUNDS, else the exported global `rounds` (i64) where it is not 0, sets
 * the rounds of each part; each round is 13 instructions.
 */

#include <stdint.h>

#define DIGITS 3
#define DEFAULT_ROUNDS 200000000u

/* The work: Knuth's 64-bit linear congruential generator, x -> A x + C. */
#define A 6364136223846793005u
#define C 1442695040888963407u

#define WASI(name) \
    __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name))) int name

/* The C library is left out: its startup code would wrap `request` in a function that also runs the
 * library's destructors. WASI preview 1, all pointers and sizes 32 bits wide: */
struct piece {
    const char *start;
    uint32_t size;
};
WASI(environ_sizes_get)(uint32_t *count, uint32_t *size);
WASI(environ_get)(char **variables, char *text);
WASI(fd_write)(int descriptor, const struct piece *pieces, uint32_t count, uint32_t *written);

/* In server_cells.s. */
int global_get(void);
void global_set(int count);
uint64_t rounds_get(void);
void digit_set(int place, int (*digit)(void));
int digit_get(int place);

static volatile int requests_in_memory;

static int zero(void) { return 0; }
static int one(void) { return 1; }
static int two(void) { return 2; }
static int three(void) { return 3; }
static int four(void) { return 4; }
static int five(void) { return 5; }
static int six(void) { return 6; }
static int seven(void) { return 7; }
static int eight(void) { return 8; }
static int nine(void) { return 9; }

static int (*const digit_functions[10])(void) = {zero, one, two,   three, four,
                                                 five, six, seven, eight, nine};

static int table_get(void) {
    int count = 0;
    for (int place = DIGITS - 1; place >= 0; place--) {
        count = 10 * count + digit_get(place);
    }
    return count;
}

static void table_increment(void) {
    for (int place = 0; place < DIGITS; place++) {
        int digit = digit_get(place);
        digit_set(place, digit_functions[(digit + 1) % 10]);
        if (digit != 9) {
            return;
        }
    }
}

/* The long way: one step after the other. */
__attribute__((noinline)) static uint64_t work(uint64_t x, uint64_t rounds) {
#pragma clang loop unroll(disable)
    for (; rounds != 0; rounds--) {
        x = A * x + C;
    }
    return x;
}

/* The short cut to the same place: `rounds` steps are again x -> a x + c; square and multiply. */
static uint64_t jump(uint64_t x, uint64_t rounds) {
    uint64_t a = A;
    uint64_t c = C;
    for (; rounds != 0; rounds >>= 1) {
        if (rounds & 1) {
            x = a * x + c;
        }
        c = (a + 1) * c;
        a *= a;
    }
    return x;
}

static void checked_work(uint64_t seed, uint64_t rounds) {
    if (work(seed, rounds) != jump(seed, rounds)) {
        __builtin_trap();
    }
}

/* The value of ROUNDS in the environment, else the exported global, else the default. */
static uint64_t rounds_wanted(void) {
    static char text[4096];
    static char *variables[64];
    static const char name[] = "ROUNDS=";
    uint32_t count = 0;
    uint32_t size = 0;
    uint64_t fallback = rounds_get() != 0 ? rounds_get() : DEFAULT_ROUNDS;
    if (environ_sizes_get(&count, &size) != 0 || count > 64 || size > sizeof text ||
        environ_get(variables, text) != 0) {
        return fallback;
    }
    for (uint32_t i = 0; i < count; i++) {
        const char *at = variables[i];
        const char *expected = name;
        while (*expected != '\0' && *at == *expected) {
            at++;
            expected++;
        }
        if (*expected != '\0' || *at < '0' || *at > '9') {
            continue;
        }
        uint64_t rounds = 0;
        for (; *at >= '0' && *at <= '9'; at++) {
            rounds = 10 * rounds + (uint64_t)(*at - '0');
        }
        return rounds;
    }
    return fallback;
}

static char *put_text(char *at, const char *text) {
    while (*text != '\0') {
        *at++ = *text++;
    }
    return at;
}

static char *put_number(char *at, int number) {
    char digits[10];
    int count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (count > 0) {
        *at++ = digits[--count];
    }
    return at;
}

static void print(int descriptor, const char *line, const char *end) {
    while (line < end) {
        struct piece piece = {line, (uint32_t)(end - line)};
        uint32_t written = 0;
        if (fd_write(descriptor, &piece, 1, &written) != 0) {
            return; /* nobody reads; the result says the same */
        }
        line += written;
    }
}

/* A line with all three counters, as they are now. */
static void report(int descriptor, int number, const char *what) {
    char line[96];
    char *at = put_text(line, "request ");
    at = put_number(at, number);
    at = put_text(at, what);
    at = put_text(at, ": memory ");
    at = put_number(at, requests_in_memory);
    at = put_text(at, ", global ");
    at = put_number(at, global_get());
    at = put_text(at, ", table ");
    at = put_number(at, table_get());
    at = put_text(at, "\n");
    print(descriptor, line, at);
}

__attribute__((export_name("request"))) int64_t request(void) {
    uint64_t rounds = rounds_wanted();

    int number = requests_in_memory + 1;
    report(2, number, " begins");
    requests_in_memory = number;
    checked_work((uint64_t)number, rounds);
    global_set(global_get() + 1);
    checked_work((uint64_t)number + 1, rounds);
    table_increment();
    checked_work((uint64_t)number + 2, rounds);

    report(1, number, "");
    return 1000000 * (int64_t)requests_in_memory + 1000 * (int64_t)global_get() + table_get();
}
