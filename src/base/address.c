#include "base/address.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct block4 { uint32_t net; int bits; } block4;
#define IP4(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

static const block4 special4[] = {
    { IP4(0, 0, 0, 0), 8 }, { IP4(10, 0, 0, 0), 8 }, { IP4(100, 64, 0, 0), 10 }, { IP4(127, 0, 0, 0), 8 }, { IP4(169, 254, 0, 0), 16 },
    { IP4(172, 16, 0, 0), 12 }, { IP4(192, 0, 0, 0), 24 }, { IP4(192, 0, 2, 0), 24 }, { IP4(192, 168, 0, 0), 16 }, { IP4(198, 18, 0, 0), 15 },
    { IP4(198, 51, 100, 0), 24 }, { IP4(203, 0, 113, 0), 24 }, { IP4(224, 0, 0, 0), 4 }, { IP4(240, 0, 0, 0), 4 },
};

static bool public4(uint32_t ip)
{
    for (size_t i = 0; i < sizeof special4 / sizeof *special4; i++)
        if ((ip ^ special4[i].net) >> (32 - special4[i].bits) == 0) return false;
    return true;
}

/* Only 2000::/3 is unicast on the internet, and of that not all. */
static bool public6(const uint8_t *b)
{
    static const uint8_t mapped[12] = { [10] = 0xFF, [11] = 0xFF };
    if (memcmp(b, mapped, 12) == 0) return public4(IP4(b[12], b[13], b[14], b[15]));
    const uint32_t head = IP4(b[0], b[1], b[2], b[3]);
    if (head >> 29 != 1) return false;
    return head >> 9 != 0x20010000u >> 9          /* 2001::/23, protocols */
        && head != 0x20010DB8u                      /* 2001:db8::/32, documentation */
        && head >> 16 != 0x2002                     /* 6to4 */
        && head >> 12 != 0x3FFF0000u >> 12;         /* 3fff::/20, documentation */
}

bool address_is_public(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) return public4(ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr));
    return a->sa_family == AF_INET6 && public6(((const struct sockaddr_in6 *)(const void *)a)->sin6_addr.s6_addr);
}
