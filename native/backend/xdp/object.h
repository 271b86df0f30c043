/* object.h - the compiled programs, inside the plugin: there is no compiler at run time. */
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

/* Opens an object and hands over its settings section, to be filled in before loading; none
 * if settings_bytes is 0. */
int object_open(struct object object, struct bpf_object **opened, void **settings,
                size_t settings_bytes, struct sonde_error *error);
/* Errors: PERMISSION, NO_MEMORY, or SYSTEM with what the kernel's verifier said last. */
int object_load(struct bpf_object *opened, struct sonde_error *error);

/* Attaches a program by a link that ends with its descriptor: nothing is pinned, nothing
 * outlives the process. Returns the descriptor, or INTERFACE_INVALID, PERMISSION, SYSTEM. */
int object_attach_tcx(struct bpf_object *opened, const char *program, int ifindex, int egress,
                      struct sonde_error *error);

/* 0 if this kernel and this process can do what the shared mode needs, without attaching. */
int object_probe(struct sonde_error *error);

#endif
