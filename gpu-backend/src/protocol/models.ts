import { z } from 'zod'

/** One entry of `GET /models`. */
export const modelEntrySchema = z.object({
  id: z.string().min(1),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
  name: z.string(),
  context_window: z.int().min(1),
  max_output_tokens: z.int().min(1),
  input_modalities: z.array(z.string()),
  output_modalities: z.array(z.string()),
  effort: z.object({ supported_levels: z.array(z.string()), default_level: z.string() }),
})

export const modelListSchema = z.object({
  object: z.literal('list'),
  data: z.array(modelEntrySchema),
})

export type ModelEntry = z.infer<typeof modelEntrySchema>
export type ModelList = z.infer<typeof modelListSchema>
