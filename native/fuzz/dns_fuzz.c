/* dns_fuzz.c - libFuzzer target of DNS messages and of the name cache; see label_fuzz.h. */
#include "label/name_cache.h"
#include "label_fuzz.h"

static struct sonde_dns_message message;

static enum sonde_parse_result parse(const uint8_t *data, size_t bytes,
                                     struct sonde_app_label *label) {
  uint8_t *copy = fuzz_copy(data, bytes);
  enum sonde_parse_result result = sonde_dns_parse(copy, (uint32_t)bytes, &message, label);
  fuzz_require(message.answers <= SONDE_DNS_ANSWERS_MAX);
  fuzz_require(result != SONDE_PARSE_DONE || label->name_source == SONDE_NAME_QNAME);
  free(copy);
  return result;
}

/* The answers name their addresses, if and only if the client had asked. */
static void check_cache(const char *qname) {
  static struct sonde_name_cache *cache;
  static uint64_t now_ns = 1;
  static const uint8_t client[16] = {192, 0, 2, 1}, other[16] = {192, 0, 2, 2};
  char name[SONDE_CACHED_NAME_MAX + 1];
  if (now_ns > UINT64_MAX / 2) {
    sonde_name_cache_destroy(cache);
    cache = NULL;
    now_ns = 1;
  }
  if (!cache)
    cache = sonde_name_cache_create();
  fuzz_require(cache != NULL);
  now_ns += UINT64_C(8000000000000); /* every earlier answer has ended */
  sonde_name_cache_answer(cache, other, 53, &message, qname, now_ns);
  sonde_name_cache_query(cache, client, 53, message.id, qname, now_ns);
  sonde_name_cache_answer(cache, client, 53, &message, qname, now_ns);
  for (uint32_t i = 0; i < message.answers; i++) {
    const struct sonde_dns_answer *answer = &message.answer[i];
    fuzz_require(
        !sonde_name_cache_find(cache, other, answer->address, answer->ip_version, now_ns, name));
    bool found =
        sonde_name_cache_find(cache, client, answer->address, answer->ip_version, now_ns, name);
    fuzz_require(found == (strlen(qname) <= SONDE_CACHED_NAME_MAX));
    fuzz_require(!found || strcmp(name, qname) == 0);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_every_cut(data, size, parse);
  struct sonde_app_label label = {0};
  if (parse(data, size, &label) == SONDE_PARSE_DONE)
    check_cache(label.name);
  return 0;
}
