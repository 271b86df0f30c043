/* registry.h - the backends this product knows, and how their plugins come into the process.
 *
 * A plugin is <plugin_dir>/<name>.so. Once loaded it stays for the life of the process: some
 * backends' libraries cannot be unloaded, and threads may still run in them.
 */
#ifndef SONDE_CORE_REGISTRY_H
#define SONDE_CORE_REGISTRY_H

#include "backend.h"

/* Loads the plugin of backend `name`. Errors: BACKEND_UNKNOWN, BACKEND_UNAVAILABLE with the
 * loader's own words. *ops lives as long as the process. Any thread. */
int sonde_registry_load(const char *plugin_dir, const char *name,
                        const struct sonde_backend_ops **ops, struct sonde_error *error);

#endif
