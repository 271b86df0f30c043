/* labels.c - the names of a record's enumerations; see labels.h. */
#include "labels.h"

#include "app_label.h"
#include "owner.h"
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

static const struct sonde_label apps[] = {
    [SONDE_APP_TLS] = LABEL("tls"),   [SONDE_APP_QUIC] = LABEL("quic"),
    [SONDE_APP_DNS] = LABEL("dns"),   [SONDE_APP_MDNS] = LABEL("mdns"),
    [SONDE_APP_HTTP] = LABEL("http"),
};

static const struct sonde_label name_sources[] = {
    [SONDE_NAME_SNI] = LABEL("sni"),
    [SONDE_NAME_HOST] = LABEL("host"),
    [SONDE_NAME_QNAME] = LABEL("qname"),
    [SONDE_NAME_DNS] = LABEL("dns"),
};

/* From 0x0300 on; [0] is no version. */
static const struct sonde_label tls_versions[] = {{0, ""},      LABEL("ssl3"), LABEL("1.0"),
                                                  LABEL("1.1"), LABEL("1.2"),  LABEL("1.3")};

static const struct sonde_label label_states[] = {
    [SONDE_LABEL_OFF] = LABEL("off"),           [SONDE_LABEL_NOT_SEEN] = LABEL("not_seen"),
    [SONDE_LABEL_SKIPPED] = LABEL("skipped"),   [SONDE_LABEL_PARTIAL] = LABEL("partial"),
    [SONDE_LABEL_COMPLETE] = LABEL("complete"),
};

static const struct sonde_label owner_hows[] = {
    [SONDE_OWNER_UNKNOWN] = LABEL("unknown"), [SONDE_OWNER_CONNECT] = LABEL("connect"),
    [SONDE_OWNER_CREATE] = LABEL("create"),   [SONDE_OWNER_LISTENER] = LABEL("listener"),
    [SONDE_OWNER_FOUND] = LABEL("found"),
};

static const struct sonde_label owner_reasons[] = {
    [SONDE_OWNER_FORWARDED] = LABEL("forwarded"),
    [SONDE_OWNER_KERNEL] = LABEL("kernel"),
    [SONDE_OWNER_BEFORE_START] = LABEL("before_start"),
    [SONDE_OWNER_LOST] = LABEL("lost"),
    [SONDE_OWNER_NAT] = LABEL("nat"),
};

static const struct sonde_label owner_sides[] = {
    [SONDE_SIDE_SOURCE] = LABEL("source"),
    [SONDE_SIDE_DEST] = LABEL("dest"),
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

const struct sonde_label *sonde_app_name(uint8_t app) {
  return &apps[app < COUNT(apps) ? app : 0];
}

const struct sonde_label *sonde_name_source_name(uint8_t source) {
  return &name_sources[source < COUNT(name_sources) ? source : 0];
}

const struct sonde_label *sonde_tls_version_name(uint16_t version) {
  uint32_t index = version >= 0x0300 && version <= 0x0304 ? version - 0x0300u + 1 : 0;
  return &tls_versions[index];
}

const struct sonde_label *sonde_label_state_name(uint8_t state) {
  return &label_states[state < COUNT(label_states) ? state : 0];
}

const struct sonde_label *sonde_owner_how_name(uint8_t how) {
  return &owner_hows[how < COUNT(owner_hows) ? how : 0];
}

const struct sonde_label *sonde_owner_reason_name(uint8_t reason) {
  return &owner_reasons[reason < COUNT(owner_reasons) ? reason : 0];
}

const struct sonde_label *sonde_owner_side_name(uint32_t side) {
  return &owner_sides[side < COUNT(owner_sides) ? side : 0];
}
