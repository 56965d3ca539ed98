/**
 * Literal texts of the control tokens that prompts and answers are built from. Their ids belong to
 * the checkpoint's tokenizer and are looked up there by these texts.
 */
export const BOS = '<｜begin▁of▁sentence｜>'
export const EOS = '<｜end▁of▁sentence｜>'
export const USER = '<｜User｜>'
export const ASSISTANT = '<｜Assistant｜>'
export const LATEST_REMINDER = '<｜latest_reminder｜>'
export const THINK_START = '<think>'
export const THINK_END = '</think>'
/** The only token of the tool-call markup; brackets, tag names and attributes are ordinary text. */
export const DSML = '｜DSML｜'
export const FIM_BEGIN = '<｜fim▁begin｜>'
export const FIM_HOLE = '<｜fim▁hole｜>'
export const FIM_END = '<｜fim▁end｜>'

/** Side tasks of the chat models: a turn marked with one ends in its token. */
export const TASK_TOKENS = {
  action: '<｜action｜>',
  query: '<｜query｜>',
  authority: '<｜authority｜>',
  domain: '<｜domain｜>',
  title: '<｜title｜>',
  read_url: '<｜read_url｜>',
} as const

export type Task = keyof typeof TASK_TOKENS
