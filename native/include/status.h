/* status.h - the list of all statuses.
 *
 * Every function that can fail returns 0 (or a count) on success and a negative
 * enum sonde_status on failure. Numbers and names are stable. The detail text goes to the
 * caller's struct sonde_error. No function of the core prints or exits.
 */
#ifndef SONDE_STATUS_H
#define SONDE_STATUS_H

/* X(number, NAME, "sentence") */
#define SONDE_STATUS_LIST(X)                                                                       \
  X(0, OK, "done")                                                                                 \
  X(-1, INVALID, "an argument is out of range")                                                    \
  X(-2, NO_MEMORY, "memory could not be allocated")                                                \
  X(-3, BACKEND_UNKNOWN, "no backend has this name")                                               \
  X(-4, BACKEND_UNAVAILABLE, "the backend cannot be used on this host")                            \
  X(-5, INTERFACE_INVALID, "the interface does not exist or cannot be opened")                     \
  X(-6, INTERFACE_SHARED, "the backend would take packets away from the host")                     \
  X(-7, FILTER_INVALID, "the filter expression does not compile")                                  \
  X(-8, PERMISSION, "a privilege is missing")                                                      \
  X(-9, STATE, "the call does not fit the state of the session")                                   \
  X(-10, SYSTEM, "a system call failed")                                                           \
  X(-11, END, "the file has been read to its end")                                                 \
  X(-12, LINK_DOWN, "the interface is down")                                                       \
  X(-13, TOO_SMALL, "the buffer is too small")                                                     \
  X(-14, FORMAT, "the file is not in a known format")                                              \
  X(-15, KEY_WRONG, "the data were sealed with another key")                                       \
  X(-16, DAMAGED, "the data were changed, or a part of them is missing")                           \
  X(-17, TRUNCATED, "the file ends before its final frame")                                        \
  X(-18, REORDERED, "a frame is repeated, missing or not in its place")                            \
  X(-19, CIPHER_UNKNOWN, "the cipher suite is not supported")

enum sonde_status {
#define SONDE_STATUS_ENUM(number, name, sentence) SONDE_##name = number,
  SONDE_STATUS_LIST(SONDE_STATUS_ENUM)
#undef SONDE_STATUS_ENUM
};

enum { SONDE_ERROR_DETAIL_MAX = 256 };

/* Filled only when a function returns a negative status. Owned by the caller. */
struct sonde_error {
  int status;                          /* enum sonde_status */
  int system_errno;                    /* errno of the failing call, or 0 */
  char detail[SONDE_ERROR_DETAIL_MAX]; /* NUL-terminated text, often the kernel's or a library's */
};

#endif
