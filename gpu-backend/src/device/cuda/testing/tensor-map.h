#pragma once

// The fake driver's tensor map: the 128 bytes that tell a copy of tiles where a matrix of bytes lies.

#include <stdint.h>

#define SLUICE_TENSOR_MAP_MARK 0x1e7500aa51u

typedef struct SluiceTensorMap {
  uint64_t mark;
  uint64_t address;
  uint64_t columns;
  uint64_t rows;
  uint64_t rowBytes;
  uint32_t boxColumns;
  uint32_t boxRows;
  /* Bits of an address that are exchanged: 0, or 3 for 128 bytes a row, 2 for 64, 1 for 32. */
  uint64_t swizzle;
  uint64_t unused[9];
} SluiceTensorMap;
