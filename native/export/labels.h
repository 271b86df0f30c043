/* labels.h - the words that stand for a record's enumerations, alike in every encoding. */
#ifndef SONDE_EXPORT_LABELS_H
#define SONDE_EXPORT_LABELS_H

#include <stdint.h>

enum { SONDE_LABEL_TEXT_MAX = 12 };

struct sonde_label {
  uint8_t length; /* 0: none, shown as null */
  char text[SONDE_LABEL_TEXT_MAX + 1];
};

/* Never NULL; a value out of range has the label of 0. */
const struct sonde_label *sonde_end_reason_label(uint8_t end_reason);
const struct sonde_label *sonde_direction_label(uint8_t direction);
const struct sonde_label *sonde_tunnel_label(uint8_t tunnel_type);

#endif
