/** What went wrong in an answer's text, as far as the markup is concerned. */
export type OutputProblem =
  /** The text ended inside the tool-call markup. */
  | 'unterminated'
  /** Something other than a call or the block's end stands where one belongs. */
  | 'expected_invoke'
  | 'bad_invoke_header'
  /** Something other than a parameter or the call's end stands where one belongs. */
  | 'expected_parameter'
  | 'bad_parameter_header'
  /** A call without the block round it that does not fit the tool it names. */
  | 'unfit_bare_call'
  /** The rest is found by the strict reading alone. */
  | 'text_after_calls'
  | 'bad_whitespace'
  | 'duplicate_parameter'
  | 'invalid_json_value'
  | 'missing_eos'
  | 'missing_think_end'
  | 'tool_calls_in_reasoning'
  | 'control_token_in_text'

/** A step of an answer. Texts and arguments come in pieces; `index` counts the answer's calls. */
export type ParserEvent =
  | { readonly type: 'reasoning'; readonly text: string }
  | { readonly type: 'content'; readonly text: string }
  | { readonly type: 'tool_call_start'; readonly index: number; readonly name: string }
  | { readonly type: 'tool_call_arguments'; readonly index: number; readonly text: string }
  /** `complete` is false where the text broke off or went astray inside the call. */
  | { readonly type: 'tool_call_end'; readonly index: number; readonly complete: boolean }
  /**
   * Markup that could not be read. What it held has been, or will be, delivered as content, except
   * `fragment`: the beginning of a tag on which the text ended.
   */
  | { readonly type: 'unparsed'; readonly reason: OutputProblem; readonly fragment: string }

/** A whole answer, its pieces put together. */
export interface ParsedOutput {
  readonly reasoning: string
  readonly content: string
  readonly toolCalls: readonly ParsedToolCall[]
}

interface ParsedToolCall {
  readonly name: string
  /** JSON text; as the model wrote it, so it may be broken or, if not `complete`, unfinished. */
  readonly arguments: string
  readonly complete: boolean
}

/** Appends an event, joining it to the one before where both are pieces of one text. */
export function appendEvent(events: ParserEvent[], event: ParserEvent): void {
  const last = events.at(-1)
  if (last === undefined || !('text' in event) || !('text' in last) || last.type !== event.type) {
    events.push(event)
    return
  }
  if ('index' in event && 'index' in last && event.index !== last.index) events.push(event)
  else events.splice(-1, 1, { ...event, text: last.text + event.text })
}

/** Puts the events of an answer together. */
export function collectOutput(events: Iterable<ParserEvent>): ParsedOutput {
  let reasoning = ''
  let content = ''
  const toolCalls = new Map<number, ParsedToolCall>()
  const update = (index: number, change: Partial<ParsedToolCall>): void => {
    const call = toolCalls.get(index) ?? { name: '', arguments: '', complete: false }
    toolCalls.set(index, { ...call, ...change })
  }
  for (const event of events) {
    switch (event.type) {
      case 'reasoning':
        reasoning += event.text
        break
      case 'content':
        content += event.text
        break
      case 'tool_call_start':
        update(event.index, { name: event.name })
        break
      case 'tool_call_arguments': {
        const before = toolCalls.get(event.index)?.arguments ?? ''
        update(event.index, { arguments: before + event.text })
        break
      }
      case 'tool_call_end':
        update(event.index, { complete: event.complete })
        break
      case 'unparsed':
        break
    }
  }
  return { reasoning, content, toolCalls: [...toolCalls.values()] }
}
