import { toyConfig } from '#weights/toy/config.ts'

/** Everything a checkpoint can have in half a megabyte: for tests that read it a thousand times. */
export const smallConfig = {
  ...toyConfig,
  vocab_size: 274,
  hidden_size: 64,
  num_hidden_layers: 2,
  compress_ratios: [4, 16, 0],
  q_lora_rank: 32,
  o_lora_rank: 32,
  moe_intermediate_size: 32,
  index_n_heads: 2,
  num_hash_layers: 1,
}
