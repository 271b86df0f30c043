/* status.c - names and sentences of statuses. status.h has the list. */
#include "netsonde.h"

#include <stddef.h>

#include "packet.h"

int sonde_abi(void) {
  return SONDE_ABI;
}

const char *sonde_status_name(int status) {
  switch (status) {
#define CASE(number, name, sentence)                                                               \
  case number:                                                                                     \
    return #name;
    SONDE_STATUS_LIST(CASE)
#undef CASE
  default:
    return "UNKNOWN";
  }
}

const char *sonde_status_text(int status) {
  switch (status) {
#define CASE(number, name, sentence)                                                               \
  case number:                                                                                     \
    return sentence;
    SONDE_STATUS_LIST(CASE)
#undef CASE
  default:
    return "an unknown status";
  }
}

const char *sonde_non_flow_name(uint32_t cause) {
  static const char *const names[] = {
#define NAME(name, text) text,
      SONDE_NON_FLOW_LIST(NAME)
#undef NAME
  };
  return cause < SONDE_NON_FLOW_COUNT ? names[cause] : NULL;
}
