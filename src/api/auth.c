/* Bearer keys, on the paths vLLM guards. */
#include <string.h>
#include <strings.h>

#include "api/app.h"
#include "base/hash.h"

static bool guarded(const char *path)
{
    static const char *const prefixes[] = { "/v1", "/v2", "/inference", "/cohere" };
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

bool auth_allows(const app *a, const char *method, const char *path, const char *authorization)
{
    if (a->o.api_keys.n == 0 || strcmp(method, "OPTIONS") == 0 || !guarded(path)) return true;
    if (!authorization) return false;
    const char *space = strchr(authorization, ' ');
    if (!space || space - authorization != 6 || strncasecmp(authorization, "bearer", 6) != 0) return false;
    const char *token = space + 1;
    /* hashes are compared, and every key is, so that the time taken says nothing about how much of a key was right */
    uint8_t have[SHA256_BYTES], want[SHA256_BYTES];
    sha256(token, strlen(token), have);
    unsigned found = 0;
    for (int i = 0; i < a->o.api_keys.n; i++) {
        sha256(a->o.api_keys.v[i], strlen(a->o.api_keys.v[i]), want);
        unsigned diff = 0;
        for (size_t k = 0; k < SHA256_BYTES; k++) diff |= (unsigned)(have[k] ^ want[k]);
        found |= diff == 0;
    }
    return found != 0;
}
