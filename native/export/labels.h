/* labels.h - the names of a record's enumerations, the same in every encoding. */
#ifndef SONDE_EXPORT_LABELS_H
#define SONDE_EXPORT_LABELS_H

#include <stdint.h>

enum { SONDE_LABEL_TEXT_MAX = 12 };

struct sonde_label {
  uint8_t length; /* 0: shown as null */
  char text[SONDE_LABEL_TEXT_MAX + 1];
};

/* Return the label of a value, that of 0 if out of range. */
const struct sonde_label *sonde_end_reason_label(uint8_t end_reason);
const struct sonde_label *sonde_direction_label(uint8_t direction);
const struct sonde_label *sonde_tunnel_label(uint8_t tunnel_type);
/* These of app_label.h: "tls", "sni", "1.3", "complete". */
const struct sonde_label *sonde_app_name(uint8_t app);
const struct sonde_label *sonde_name_source_name(uint8_t source);
const struct sonde_label *sonde_tls_version_name(uint16_t version);
const struct sonde_label *sonde_label_state_name(uint8_t state);
/* These of owner.h: "listener", "forwarded", "source". */
const struct sonde_label *sonde_owner_how_name(uint8_t how);
const struct sonde_label *sonde_owner_reason_name(uint8_t reason);
const struct sonde_label *sonde_owner_side_name(uint32_t side);

#endif
