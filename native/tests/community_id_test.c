/* community_id_test.c - Community IDs compared with published ones.
 *
 * The ids of ICMP, GRE and IP-in-IP are from the shared traces. Zeek and Suricata print the
 * same. The first TCP id is the example of the specification. Both directions of a conversation
 * have one id. A one-way ICMP type has a direction.
 */
#include <arpa/inet.h>
#include <string.h>

#include "check.h"
#include "export/community_id.h"

struct vector {
  const char *source_ip, *dest_ip;
  uint16_t source_port, dest_port;
  uint8_t protocol;
  uint8_t one_way;
  const char *community_id;
};

static const struct vector vectors[] = {
    {"128.232.110.120", "66.35.250.204", 34855, 80, 6, 0, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
    {"66.59.111.190", "18.26.4.105", 123, 123, 17, 0, "1:veIAhY2jaBSkfqgIosmVNpCkTpE="},
    {"10.0.0.1", "10.0.0.1", 9, 3, 17, 0, "1:+lvOL8gOaIVQBYNDa934Z4SYnSo="},
    {"192.168.170.8", "192.168.170.20", 7, 80, 132, 0, "1:gFaHI1laWtpQlwRSTE0djem/ECM="},
    /* paired ICMP, also with equal addresses */
    {"66.59.111.190", "172.28.2.3", 8, 0, 1, 0, "1:4qiuUiapfKrMDVDHhw0iOgvogqI="},
    {"192.0.2.1", "192.0.2.1", 8, 0, 1, 0, "1:VvzjLzIppyRTdjrTPqO6X5e/Sj8="},
    {"fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 136, 58, 0,
     "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
    {"3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 128, 129, 58, 0,
     "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="},
    {"fe80::200:86ff:fe05:80da", "ff02::2", 133, 134, 58, 0, "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="},
    {"fe80::260:97ff:fe07:69ea", "ff02::1", 134, 133, 58, 0, "1:pkvHqCL88/tg1k4cPigmZXUtL00="},
    {"fe80::1", "fe80::2", 130, 131, 58, 0, "1:Pmn7mCHtn19srQiXm2sF0CDRRMA="},
    {"fe80::1", "fe80::2", 139, 140, 58, 0, "1:oPVhmQYL42iV9FGiMqdb38yGSeA="},
    {"fe80::1", "fe80::2", 144, 145, 58, 0, "1:21qp2MlwLUEblqK3FO0+OyLBlWA="},
    {"10.0.0.1", "10.0.0.2", 9, 10, 1, 0, "1:DYhYhWnv1hFRoB3VRnwSDthRB4g="},
    {"10.0.0.1", "10.0.0.2", 13, 14, 1, 0, "1:6zK3cgZa+RmEpj3VhWmGXnOWUZk="},
    {"10.0.0.1", "10.0.0.2", 15, 16, 1, 0, "1:cB4rCi6yiOWeiOghtxw4EOnHisM="},
    {"10.0.0.1", "10.0.0.2", 17, 18, 1, 0, "1:pBxqyIdNW2nuGKUHpPBwrujq1iE="},
    /* one-way ICMP: type and code, never swapped */
    {"172.28.2.3", "66.59.111.190", 3, 3, 1, 1, "1:bTAVApTgzlxwhyz+udTptSSnFcM="},
    {"10.0.0.1", "10.0.0.2", 3, 3, 1, 1, "1:sn6MAmXQ6UD1gYE1XbV3XTNewrk="},
    {"10.0.0.2", "10.0.0.1", 3, 3, 1, 1, "1:LhjXG72oBqb/FpYqPl9LboG4/B4="},
    {"3ffe:507:0:1:260:97ff:fe07:69ea", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0, 58, 1,
     "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w="},
    {"3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4, 58, 1,
     "1:hLZd0XGWojozrvxqE0dWB1iM6R0="},
    {"fe80::c801:eff:fe88:8", "ff02::16", 143, 0, 58, 1, "1:cLKbhjqePfJroWMAbA1lYRfgIp0="},
    {"fe80::2", "fe80::1", 0, 0, 58, 1, "1:n8O65GKyDjmkoNVQmIjZ21inJu8="},
    /* fragments of unknown ICMP type are one flow in both directions */
    {"10.0.0.2", "10.0.0.1", 0, 0, 1, 0, "1:z8UMHdES8RY5PfOROKWOo/y9vQg="},
    /* no ports in the hash */
    {"172.27.1.66", "66.59.109.137", 0, 0, 47, 0, "1:oOTmg3Toi6uG7waixDkGLxx1ZnI="},
    {"22e0:1685:eda7:38cc:58bd:f3f1:aa3f:22d8", "344a:ba94:152a:ac34::2a", 0, 0, 4, 0,
     "1:9mfII33fHI66CX4BH0y/0dCxqdA="},
    {"fe80::1", "fe80::2", 0, 0, 50, 0, "1:NF0tB/HFLOFOFjwNzZ6qloHnVTw="},
    {"10.0.0.1", "10.0.0.2", 5, 6, 33, 0, "1:qKfrGVs14/VI2wLMVfhXXHfa6a0="},
};

static struct sonde_record make_record(const struct vector *vector, int swapped) {
  struct sonde_record record = {
      .protocol = vector->protocol,
      .source_port = swapped ? vector->dest_port : vector->source_port,
      .dest_port = swapped ? vector->source_port : vector->dest_port,
      .ip_version = strchr(vector->source_ip, ':') ? 6 : 4,
  };
  int family = record.ip_version == 6 ? AF_INET6 : AF_INET;
  CHECK_EQ(inet_pton(family, vector->source_ip, swapped ? record.dest_ip : record.source_ip), 1);
  CHECK_EQ(inet_pton(family, vector->dest_ip, swapped ? record.source_ip : record.dest_ip), 1);
  return record;
}

static void check_vector(struct sonde_community_hash *hash, const struct vector *vector) {
  char text[SONDE_COMMUNITY_ID_BYTES + 1] = "";
  for (int swapped = 0; swapped < 2 - vector->one_way; swapped++) {
    struct sonde_record record = make_record(vector, swapped);
    CHECK_EQ(sonde_community_id_put(hash, &record, text), 0);
    CHECK_EQ(strlen(text), SONDE_COMMUNITY_ID_BYTES);
    if (strcmp(text, vector->community_id) != 0) {
      fprintf(stderr, "%s → %s, protocol %u: %s\n", vector->source_ip, vector->dest_ip,
              vector->protocol, text);
    }
    CHECK(strcmp(text, vector->community_id) == 0);
  }
}

/* If libcrypto rejects SHA-1, the id is missing but the record remains. */
static void check_missing_sha1(void) {
  struct sonde_community_hash hash = {.digest = NULL, .context = NULL};
  struct sonde_record record = make_record(&vectors[0], 0);
  char text[SONDE_COMMUNITY_ID_BYTES] = "untouched";
  CHECK_EQ(sonde_community_id_put(&hash, &record, text), -1);
  CHECK(strcmp(text, "untouched") == 0);
  sonde_community_hash_close(&hash);
}

int main(void) {
  struct sonde_community_hash hash;
  sonde_community_hash_open(&hash);
  for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
    check_vector(&hash, &vectors[i]);
  sonde_community_hash_close(&hash);
  check_missing_sha1();
  return check_report();
}
