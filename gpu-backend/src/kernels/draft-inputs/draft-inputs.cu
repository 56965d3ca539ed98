// draft-inputs: the normed embedding of each row's next token, and the normed streams of the row it
// follows (`draft-inputs.ts`). A block a row to be normed: the embedding, then each stream.

#include "../cuda/values.h"
#include "../cuda/warp.h"

namespace sluice {
namespace {

struct DraftInputsArgs {
  const int* tokens;
  Values table;
  const float* source;
  const int* picks;
  Values embeddingNorm;
  Values streamNorm;
  float* embedding;
  float* streams;
  int count;
  int hidden;
  float eps;
};

}  // namespace

SLUICE_KERNEL(draft_inputs, DraftInputsArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const room = reinterpret_cast<float*>(shared);
  float* const values = room + 32;
  const int64_t row = blockIdx.x;
  const int stream = static_cast<int>(blockIdx.y) - 1;
  const int64_t hidden = args.hidden;
  const float* const from =
      args.source + (int64_t{args.picks[row]} * args.count + (stream < 0 ? 0 : stream)) * hidden;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < args.hidden; i += static_cast<int>(blockDim.x)) {
    values[i] = stream < 0 ? args.table[args.tokens[row] * hidden + i] : from[i];
    squares += values[i] * values[i];
  }
  const float mean = blockSum(squares, room) / static_cast<float>(args.hidden);
  const float inverse = 1.0f / sqrtf(mean + args.eps);
  const Values norm = stream < 0 ? args.embeddingNorm : args.streamNorm;
  float* const into =
      stream < 0 ? args.embedding + row * hidden : args.streams + (row * args.count + stream) * hidden;
  for (int i = static_cast<int>(threadIdx.x); i < args.hidden; i += static_cast<int>(blockDim.x)) {
    into[i] = values[i] * inverse * norm[i];
  }
}

}  // namespace sluice
