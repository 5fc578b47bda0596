/* Which addresses are on the internet: neither this machine's nor its networks', by IANA's registries of special-purpose
 * addresses (RFC 6890 and its updates), multicast and what carries an IPv4 address inside (6to4, NAT64) included. */
#ifndef SYSTOLIC_BASE_ADDRESS_H
#define SYSTOLIC_BASE_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* False also for families other than IPv4 and IPv6. */
bool address_is_public(const struct sockaddr *a);

#endif
