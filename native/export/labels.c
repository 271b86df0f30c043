/* labels.c - the names of a record's enumerations; see labels.h. */
#include "labels.h"

#include "record.h"

#define LABEL(word) {sizeof word - 1, word}
#define COUNT(labels) (sizeof labels / sizeof labels[0])

static const struct sonde_label end_reasons[] = {
    [SONDE_END_IDLE] = LABEL("idle"),
    [SONDE_END_ACTIVE] = LABEL("active"),
    [SONDE_END_END] = LABEL("end"),
    [SONDE_END_FORCED] = LABEL("forced"),
    [SONDE_END_RESOURCES] = LABEL("resources"),
};

static const struct sonde_label directions[] = {
    [SONDE_DIRECTION_UNKNOWN] = LABEL("unknown"),
    [SONDE_DIRECTION_INGRESS] = LABEL("ingress"),
    [SONDE_DIRECTION_EGRESS] = LABEL("egress"),
};

static const struct sonde_label tunnels[] = {
    [SONDE_TUNNEL_GRE] = LABEL("gre"),       [SONDE_TUNNEL_ERSPAN] = LABEL("erspan"),
    [SONDE_TUNNEL_IPIP] = LABEL("ipip"),     [SONDE_TUNNEL_VXLAN] = LABEL("vxlan"),
    [SONDE_TUNNEL_GENEVE] = LABEL("geneve"), [SONDE_TUNNEL_GTPU] = LABEL("gtpu"),
    [SONDE_TUNNEL_TEREDO] = LABEL("teredo"),
};

const struct sonde_label *sonde_end_reason_label(uint8_t end_reason) {
  return &end_reasons[end_reason < COUNT(end_reasons) ? end_reason : 0];
}

const struct sonde_label *sonde_direction_label(uint8_t direction) {
  return &directions[direction < COUNT(directions) ? direction : 0];
}

const struct sonde_label *sonde_tunnel_label(uint8_t tunnel_type) {
  return &tunnels[tunnel_type < COUNT(tunnels) ? tunnel_type : 0];
}
