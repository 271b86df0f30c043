/* object.h - the compiled eBPF programs, embedded in the plugin. */
#ifndef SONDE_XDP_OBJECT_H
#define SONDE_XDP_OBJECT_H

#include <bpf/libbpf.h>

#include "map_layout.h"
#include "status.h"

struct object {
  const void *bytes;
  size_t length;
};

struct object object_shared(void);
struct object object_dedicated(void);

/* Opens an object. *settings points to its settings section, to be filled in before loading; not
 * set if settings_bytes is 0. */
int object_open(struct object object, struct bpf_object **opened, void **settings,
                size_t settings_bytes, struct sonde_error *error);
/* Errors: PERMISSION, NO_MEMORY, or SYSTEM with the kernel verifier's last message. */
int object_load(struct bpf_object *opened, struct sonde_error *error);

/* Attaches a program by a link that ends when its descriptor is closed, at the latest with the
 * process. Returns the descriptor, or INTERFACE_INVALID, PERMISSION, SYSTEM. */
int object_attach_tcx(struct bpf_object *opened, const char *program, int ifindex, int egress,
                      struct sonde_error *error);

/* Checks that kernel and process support the shared mode. Attaches no program. */
int object_probe(struct sonde_error *error);

#endif
