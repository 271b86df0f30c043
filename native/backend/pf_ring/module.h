/* module.h - the kernel module pf_ring: whether it is loaded, its version and its options. */
#ifndef SONDE_PF_RING_MODULE_H
#define SONDE_PF_RING_MODULE_H

#include <stdbool.h>

#include "library.h"

/* Checks that the module is loaded, that this process may open rings, and that no option falsifies
 * a capture. Opens no ring. */
int module_check(struct sonde_error *error);
/* Returns errno of a socket of the module, or 0 if one opens. */
int module_cause(void);
/* Returns whether the module shows packets that the host sends (enable_tx_capture). */
bool module_shows_sent(void);
/* Returns whether module and library are of the same release. */
bool module_matches(const struct library *library);
/* Reports that the library rejects the module's rings. */
int module_mismatch(const struct library *library, int cause, struct sonde_error *error);

#endif
