/* check.h - the assertions of the C tests. A failed check is printed and counted. The test
 * continues, so that one run shows every failure.
 *
 * A test is one executable: main() runs its checks and ends with `return check_report();`.
 * CHECK_EQ compares integers of any width as 64-bit values and prints both.
 */
#ifndef SONDE_TESTS_CHECK_H
#define SONDE_TESTS_CHECK_H

#include <stdio.h>

static unsigned long check_count;
static unsigned long check_failures;

static inline void check_true(int holds, const char *text, const char *file, int line) {
  check_count++;
  if (!holds) {
    check_failures++;
    fprintf(stderr, "%s:%d: %s does not hold\n", file, line, text);
  }
}

static inline void check_equal(long long left, long long right, const char *left_text,
                               const char *right_text, const char *file, int line) {
  check_count++;
  if (left != right) {
    check_failures++;
    fprintf(stderr, "%s:%d: %s is %lld (0x%llx), %s is %lld (0x%llx)\n", file, line, left_text,
            left, (unsigned long long)left, right_text, right, (unsigned long long)right);
  }
}

#define CHECK(cond) check_true(!!(cond), #cond, __FILE__, __LINE__)
#define CHECK_EQ(a, b) check_equal((long long)(a), (long long)(b), #a, #b, __FILE__, __LINE__)

/* The exit code of main(): 0 if checks were made and none failed. */
static inline int check_report(void) {
  fprintf(stderr, "%lu checks, %lu failed\n", check_count, check_failures);
  return check_count == 0 || check_failures != 0;
}

#endif
