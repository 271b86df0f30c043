/* identify.c - see identify.h.
 *
 * Compressed files need the command of their compressor. Captures of other programs need editcap,
 * which reads all of them.
 */
#include "identify.h"

#include <stdio.h>
#include <string.h>

#define EDITCAP "editcap -F pcapng FILE OUT.pcapng"

struct kind {
  const char *magic;
  uint8_t bytes;
  const char *name;
  const char *command;
};

static const struct kind kinds[] = {
    {"\x1f\x8b", 2, "compressed with gzip", "gunzip FILE"},
    {"\x1f\x9d", 2, "compressed with compress", "uncompress FILE"},
    {"\x28\xb5\x2f\xfd", 4, "compressed with zstd", "zstd -d FILE"},
    {"\xfd\x37zXZ", 5, "compressed with xz", "xz -d FILE"},
    {"BZh", 3, "compressed with bzip2", "bunzip2 FILE"},
    {"\x04\x22\x4d\x18", 4, "compressed with lz4", "lz4 -d FILE"},
    {"LZIP", 4, "compressed with lzip", "lzip -d FILE"},
    {"PK\x03\x04", 4, "a ZIP archive", "unzip FILE"},
    {"7z\xbc\xaf\x27\x1c", 6, "a 7-Zip archive", "7z x FILE"},
    {"\x34\xcd\xb2\xa1", 4, "a modified pcap file (Kuznetzov's format)", EDITCAP},
    {"\xa1\xb2\xcd\x34", 4, "a modified pcap file (Kuznetzov's format)", EDITCAP},
    {"\x12\xcb\xe2\xa1", 4, "a modified pcap file", EDITCAP},
    {"\xa1\xe2\xcb\x12", 4, "a modified pcap file", EDITCAP},
    {"\xcd\xb2\xb3\xa1", 4, "a modified pcap file", EDITCAP},
    {"\x1c\x00\x01\xac", 4, "an IXIA capture", EDITCAP},
    {"\xac\x01\x00\x1c", 4, "an IXIA capture", EDITCAP},
    {"\x1c\x00\x01\xab", 4, "an IXIA capture", EDITCAP},
    {"\xab\x01\x00\x1c", 4, "an IXIA capture", EDITCAP},
    {"snoop\0\0\0", 8, "a snoop capture", EDITCAP},
    {"btsnoop\0", 8, "a btsnoop capture", EDITCAP},
    {"GMBU", 4, "a Network Monitor capture", EDITCAP},
    {"RTSS", 4, "a Network Monitor capture", EDITCAP},
    {"TRSNIFF data", 12, "a Sniffer capture", EDITCAP},
    {"XCP\0", 4, "a NetXRay or Sniffer capture", EDITCAP},
    {"\x7fver", 4, "an EtherPeek or OmniPeek capture", EDITCAP},
    {"\x54\x52\x00\x64", 4, "a NetXRay capture", EDITCAP},
    {"SONDESEG", 8, "a segment of a capture buffer", "netsonde decrypt FILE"},
    {"\x7f"
     "ELF",
     4, "a program", "file FILE"},
    {"{", 1, "JSON text", "file FILE"},
};

void file_identify(const uint8_t *bytes, size_t count, char *text, size_t capacity) {
  if (count == 0) {
    snprintf(text, capacity, "empty, and not a pcap or pcapng file");
    return;
  }
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    const struct kind *kind = &kinds[i];
    if (count >= kind->bytes && memcmp(bytes, kind->magic, kind->bytes) == 0) {
      snprintf(text, capacity, "%s, not a pcap or pcapng file; try: %s", kind->name, kind->command);
      return;
    }
  }
  if (count > 262 && memcmp(bytes + 257, "ustar", 5) == 0)
    snprintf(text, capacity, "a tar archive, not a pcap or pcapng file; try: tar xf FILE");
  else
    snprintf(text, capacity, "not a pcap or pcapng file; try: " EDITCAP);
}
