/* Time. */
#ifndef SYSTOLIC_BASE_CLOCK_H
#define SYSTOLIC_BASE_CLOCK_H

#include <stdint.h>

double clock_now(void);      /* monotonic seconds */
double clock_wall(void);     /* seconds since 1970 */
uint64_t clock_ns(void);     /* monotonic nanoseconds */

#endif
