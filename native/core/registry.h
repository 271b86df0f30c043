/* registry.h - the known backends and the loader of their plug-ins.
 *
 * A plug-in is <plugin_dir>/<name>.so. A loaded plug-in is never unloaded: some backends'
 * libraries do not support it, and threads may still run in them.
 */
#ifndef SONDE_CORE_REGISTRY_H
#define SONDE_CORE_REGISTRY_H

#include "backend.h"

/* Loads the plug-in of backend `name`. *ops is valid until the process ends. Any thread.
 * Errors: BACKEND_UNKNOWN, BACKEND_UNAVAILABLE (with the loader's message), INVALID. */
int sonde_registry_load(const char *plugin_dir, const char *name,
                        const struct sonde_backend_ops **ops, struct sonde_error *error);

#endif
