// embed: each stream of a row is its token's embedding (`embed.ts`). Memory-bound: a value is widened
// once and written to every stream. A token that is not in the table becomes NaN, which shows.

#include "../cuda/values.h"

namespace sluice {
namespace {

struct EmbedArgs {
  const int* tokens;
  Values table;
  float* streams;
  int vocabulary;
  int hidden;
  int count;
};

}  // namespace

SLUICE_KERNEL(embed_rows, EmbedArgs, 256, 2) {
  const int64_t row = blockIdx.x;
  const int token = args.tokens[row];
  const bool known = token >= 0 && token < args.vocabulary;
  float* const streams = args.streams + row * args.count * args.hidden;
  const int step = static_cast<int>(gridDim.y * blockDim.x);
  for (int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); i < args.hidden; i += step) {
    const float value = known ? args.table[int64_t{token} * args.hidden + i] : quietNaN();
    for (int stream = 0; stream < args.count; stream++) streams[stream * args.hidden + i] = value;
  }
}

}  // namespace sluice
