/* What the parts of the driver share. */
#ifndef NATIVE_DRIVER_H
#define NATIVE_DRIVER_H

#include "native.h"

uint32_t any(uint32_t below);               /* by chance, but the same for the same seed */
void holds(int so, const char *what);       /* or the driver ends */
uint8_t *memory(size_t size);               /* of that size, and not a byte more */
uint32_t put32(uint8_t *at, uint32_t value); /* big endian */

extern uint64_t followed, stored, flowed, odd; /* data sets, counted */
void follow(void);
void express(void);
void inflow(void);

#endif
