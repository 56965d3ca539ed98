// hc-post: X'[b] = post[b]·y + Σ_a C[a][b]·X[a] (`hc-post.ts`). Memory-bound.

#include "../native/streams.h"

namespace sluice {
namespace {

void hcPost(Context& context, Args& args) {
  const Streams streams = readStreams(args);
  const StreamUpdate update = readUpdate(args);
  args.finish();
  updateStreams(context, streams, update, 0, streams.rows);
}

const RegisterOp registered("hc-post", hcPost);

}  // namespace
}  // namespace sluice
