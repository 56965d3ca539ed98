import type { PromptConstants } from '#weights/manifest.ts'
import {
  ASSISTANT,
  BOS,
  DSML,
  EOS,
  FIM_BEGIN,
  FIM_END,
  FIM_HOLE,
  LATEST_REMINDER,
  TASK_TOKENS,
  THINK_END,
  THINK_START,
  USER,
} from './control-tokens.ts'
import {
  contentText,
  dropsThinking,
  lastUserIndex,
  mergeTurns,
  withoutStaleDevelopers,
} from './conversation.ts'
import type {
  AssistantMessage,
  Conversation,
  SystemMessage,
  ToolCall,
  Turn,
  UserTurn,
} from './conversation.ts'
import { JsonSourceError, parseJsonSource, pythonJson } from './python-json.ts'
import type { JsonNode } from './python-json.ts'
import type { Tokenizer } from './tokenizer.ts'

export type { PromptConstants } from '#weights/manifest.ts'

/**
 * A stretch of a prompt. `text` is untrusted and never becomes a control token, whatever it spells;
 * `control` is one token by its literal; `trusted` comes with the checkpoint, and the control
 * literals in it are meant.
 */
export type PromptPiece =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'control'; readonly token: string }
  | { readonly kind: 'trusted'; readonly text: string }

export type Effort = 'default' | 'high' | 'max'

export interface PromptOptions {
  readonly thinking: boolean
  /** Only matters when thinking. */
  readonly effort: Effort
  readonly constants: PromptConstants
  /** Leave out the reasoning of answered turns; true unless given, never done where tools are. */
  readonly dropThinking?: boolean | undefined
  /** False when the prompt continues one that is already rendered; true unless given. */
  readonly addBos?: boolean | undefined
}

/** A prompt needs a text that the checkpoint did not bring. */
export class PromptError extends Error {
  override readonly name = 'PromptError'
  readonly code = 'missing_prompt_constant'
  readonly constant: keyof PromptConstants

  constructor(constant: keyof PromptConstants, neededFor: string) {
    super(
      `this checkpoint has no prompt constant '${constant}', which ${neededFor} needs; ` +
        'import the checkpoint again with its prompt constants, or leave the feature out',
    )
    this.constant = constant
  }
}

/** Renders a conversation up to the point where the model's answer begins. */
export function renderPrompt(conversation: Conversation, options: PromptOptions): PromptPiece[] {
  const drop = dropsThinking(conversation.messages, options.dropThinking ?? true)
  const merged = mergeTurns(conversation.messages)
  const turns = options.thinking && drop ? withoutStaleDevelopers(merged) : merged
  const out = new PieceWriter()
  if (options.addBos ?? true) {
    out.control(BOS)
    if (options.thinking && turns.length > 0) writeEffort(out, options)
  }
  const frame: Frame = { turns, drop, lastUser: lastUserIndex(turns), options }
  for (const [index, turn] of turns.entries()) {
    writeTurn(out, turn, index, frame)
    writeTransition(out, turn, index, frame)
  }
  return out.pieces
}

/**
 * Fill-in-the-middle: the model writes what belongs between `prefix` and `suffix`. Without a suffix
 * it is plain continuation of the prefix.
 */
export function renderFim(prefix: string, suffix: string | null): PromptPiece[] {
  const out = new PieceWriter()
  out.control(BOS)
  if (suffix === null) {
    out.text(prefix)
    return out.pieces
  }
  out.control(FIM_BEGIN)
  out.text(prefix)
  out.control(FIM_HOLE)
  out.text(suffix)
  out.control(FIM_END)
  return out.pieces
}

/** The prompt as one text, control tokens by their literals: what tests and people read. */
export function promptText(pieces: readonly PromptPiece[]): string {
  return pieces.map((piece) => (piece.kind === 'control' ? piece.token : piece.text)).join('')
}

/**
 * Whether the answer to this prompt begins inside the chain of thought. The output parser takes its
 * start from here, so that it and the prompt cannot disagree.
 */
export function opensReasoning(pieces: readonly PromptPiece[]): boolean {
  const ends: readonly string[] = [THINK_START, THINK_END, USER, EOS]
  const last = pieces.findLast((piece) => piece.kind === 'control' && ends.includes(piece.token))
  return last?.kind === 'control' && last.token === THINK_START
}

/**
 * Token ids of a prompt. Texts that meet without a control token between them are encoded as one,
 * as the models were trained: a word may span the seam.
 */
export function encodePrompt(tokenizer: Tokenizer, pieces: readonly PromptPiece[]): Int32Array {
  const ids: number[][] = []
  let text = ''
  const control = (id: number): void => {
    if (text !== '') ids.push(tokenizer.encodeText(text))
    ids.push([id])
    text = ''
  }
  for (const piece of pieces) {
    if (piece.kind === 'text') text += piece.text
    else if (piece.kind === 'control') control(tokenizer.controlId(piece.token))
    else {
      for (const part of tokenizer.cutAtControls(piece.text)) {
        if (typeof part === 'string') text += part
        else control(part)
      }
    }
  }
  if (text !== '') ids.push(tokenizer.encodeText(text))
  return joined(ids)
}

function joined(parts: readonly (readonly number[])[]): Int32Array {
  const all = new Int32Array(parts.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

/** Collects pieces, joining neighbours of one kind. */
class PieceWriter {
  readonly pieces: PromptPiece[] = []

  text(text: string): void {
    this.#append('text', text)
  }

  trusted(text: string): void {
    this.#append('trusted', text)
  }

  control(token: string): void {
    this.pieces.push({ kind: 'control', token })
  }

  #append(kind: 'text' | 'trusted', text: string): void {
    if (text === '') return
    const last = this.pieces.at(-1)
    if (last?.kind === kind) this.pieces.splice(-1, 1, { kind, text: last.text + text })
    else this.pieces.push({ kind, text })
  }
}

/** What every turn's rendering depends on. */
interface Frame {
  readonly turns: readonly Turn[]
  readonly drop: boolean
  readonly lastUser: number
  readonly options: PromptOptions
}

function writeEffort(out: PieceWriter, { effort, constants }: PromptOptions): void {
  // Early releases have no text for `high`: it is their default. `max` has one in all of them.
  if (effort === 'high') out.trusted(constants.effortHigh ?? '')
  if (effort === 'max') out.trusted(required(constants, 'effortMax', "effort 'max'"))
}

function required(
  constants: PromptConstants,
  name: keyof PromptConstants,
  neededFor: string,
): string {
  const text = constants[name]
  if (text === undefined) throw new PromptError(name, neededFor)
  return text
}

function writeTurn(out: PieceWriter, turn: Turn, index: number, frame: Frame): void {
  switch (turn.role) {
    case 'system':
      return writeSystem(out, turn, frame.options.constants)
    case 'developer':
      out.control(USER)
      return writeSystem(out, turn, frame.options.constants)
    case 'user':
      return writeUser(out, turn)
    case 'latest_reminder':
      out.control(LATEST_REMINDER)
      return out.text(contentText(turn.content))
    case 'assistant':
      return writeAssistant(out, turn, index, frame)
  }
}

function writeSystem(out: PieceWriter, turn: SystemMessage, constants: PromptConstants): void {
  out.text(contentText(turn.content))
  if (turn.tools !== undefined && turn.tools.length > 0) writeTools(out, turn.tools, constants)
  if (turn.responseFormat !== undefined) {
    out.text('\n\n')
    out.trusted(required(constants, 'responseFormat', 'a response format'))
    out.text(pythonJson(turn.responseFormat))
  }
}

function writeTools(
  out: PieceWriter,
  tools: readonly JsonNode[],
  constants: PromptConstants,
): void {
  out.text('\n\n')
  out.trusted(required(constants, 'toolsHead', 'a request with tools'))
  out.text(tools.map(pythonJson).join('\n'))
  out.trusted(required(constants, 'toolsTail', 'a request with tools'))
}

function writeUser(out: PieceWriter, turn: UserTurn): void {
  out.control(USER)
  const blocks = turn.blocks.map((block) =>
    block.kind === 'text' ? block.text : `<tool_result>${block.text}</tool_result>`,
  )
  out.text(blocks.join('\n\n'))
}

function writeAssistant(
  out: PieceWriter,
  turn: AssistantMessage,
  index: number,
  frame: Frame,
): void {
  const content = contentText(turn.content)
  const toolCalls = turn.toolCalls ?? []
  const continued = turn.prefix === true && index === frame.turns.length - 1
  if (keepsReasoning(index, frame)) {
    out.text(turn.reasoningContent ?? '')
    const thinksOn = continued && content === '' && toolCalls.length === 0
    if (!thinksOn) out.control(THINK_END)
  }
  out.text(content)
  if (toolCalls.length > 0) writeToolCalls(out, toolCalls)
  if (turn.woEos !== true && !continued) out.control(EOS)
}

/** Whether the assistant turn at `index` follows an opened chain of thought, which it must close. */
function keepsReasoning(index: number, { turns, drop, lastUser, options }: Frame): boolean {
  if (!options.thinking || turns[index - 1]?.task !== undefined) return false
  return !drop || index > lastUser
}

function writeToolCalls(out: PieceWriter, calls: readonly ToolCall[]): void {
  out.text('\n\n<')
  writeTag(out, 'tool_calls>\n')
  for (const call of calls) {
    out.text('<')
    writeTag(out, `invoke name="${call.name}">\n`)
    const parameters = callParameters(call)
    for (const parameter of parameters) {
      out.text('<')
      writeTag(out, `parameter name="${parameter.name}" string="${parameter.isString}">`)
      out.text(`${parameter.text}</`)
      writeTag(out, 'parameter>\n')
    }
    // Without arguments the line between the tags is there all the same, empty.
    out.text(parameters.length === 0 ? '\n</' : '</')
    writeTag(out, 'invoke>\n')
  }
  out.text('</')
  writeTag(out, 'tool_calls>')
}

function writeTag(out: PieceWriter, rest: string): void {
  out.control(DSML)
  out.text(rest)
}

interface CallParameter {
  readonly name: string
  readonly isString: boolean
  readonly text: string
}

/** A call's arguments one by one; what is no JSON object becomes one argument of that name. */
function callParameters(call: ToolCall): readonly CallParameter[] {
  const node = parsedArguments(call.arguments)
  if (node?.kind !== 'object') {
    return [{ name: 'arguments', isString: true, text: call.arguments }]
  }
  return Array.from(node.members, ([name, value]) =>
    value.kind === 'string'
      ? { name, isString: true, text: value.value }
      : { name, isString: false, text: pythonJson(value) },
  )
}

function parsedArguments(text: string): JsonNode | undefined {
  try {
    return parseJsonSource(text)
  } catch (error) {
    // Models do write broken arguments, and clients send them back: the text is kept as it is.
    if (error instanceof JsonSourceError) return undefined
    throw error
  }
}

/** What stands between a turn and the answer to it; nothing where no answer follows. */
function writeTransition(out: PieceWriter, turn: Turn, index: number, frame: Frame): void {
  const next = frame.turns[index + 1]
  if (next !== undefined && next.role !== 'assistant' && next.role !== 'latest_reminder') return
  const { thinking } = frame.options
  if (turn.task !== undefined) {
    if (turn.task === 'action') {
      out.control(ASSISTANT)
      out.control(thinking ? THINK_START : THINK_END)
    }
    out.control(TASK_TOKENS[turn.task])
  } else if (turn.role === 'user' || turn.role === 'developer') {
    out.control(ASSISTANT)
    const opens = thinking && (!frame.drop || index >= frame.lastUser)
    out.control(opens ? THINK_START : THINK_END)
  }
}
