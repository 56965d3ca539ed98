import assert from 'node:assert/strict'
import { ArgumentsWriter, jsonKind } from './arguments-writer.ts'
import { BOS, DSML, EOS, THINK_END, THINK_START } from './control-tokens.ts'
import { heldSuffix, mayBecome } from './held-suffix.ts'
import { appendEvent, collectOutput } from './output-events.ts'
import type { OutputProblem, ParsedOutput, ParserEvent } from './output-events.ts'
import type { ToolShape, ToolShapes } from './tool-shapes.ts'

export interface OutputParserOptions {
  /** The answer begins inside the chain of thought: `opensReasoning` of its prompt. */
  readonly thinking: boolean
  /** The request has tools. Without them the markup is plain content. */
  readonly toolsAllowed: boolean
  /**
   * The tools by name. Needed to recover calls whose block opener the model forgot, and arguments it
   * wrapped into one; without it neither is tried.
   */
  readonly tools?: ToolShapes | undefined
}

/** Reads an answer while it is generated. What it returns does not depend on how the text is cut. */
export interface OutputParser {
  push(text: string): ParserEvent[]
  /** The answer is over: everything held back comes out. Call once. */
  finish(): ParserEvent[]
}

/** An answer that the strict reading refuses. */
export class OutputParseError extends Error {
  override readonly name = 'OutputParseError'
  readonly code: OutputProblem

  constructor(code: OutputProblem) {
    super(`the answer is not in the models' format: ${code}`)
    this.code = code
  }
}

/**
 * Parser for serving: what cannot be read as markup is delivered as content and reported, never
 * dropped. An end-of-sentence literal at the very end is swallowed; anywhere else it is text.
 */
export function createOutputParser(options: OutputParserOptions): OutputParser {
  const gate = new EosGate()
  const machine = new OutputMachine(options, false)
  return {
    push: (text) => machine.push(gate.push(text)),
    finish: () => machine.finish(gate.finish().text),
  }
}

/**
 * A whole answer, end-of-sentence literal included, read as strictly as the models' own parser
 * does. Throws `OutputParseError`.
 */
export function parseComplete(text: string, { thinking }: { thinking: boolean }): ParsedOutput {
  if (!text.endsWith(EOS)) throw new OutputParseError('missing_eos')
  const machine = new OutputMachine({ thinking, toolsAllowed: true }, true)
  const events = machine.push(text.slice(0, -EOS.length))
  events.push(...machine.finish(''))
  const output = collectOutput(events)
  if (output.reasoning.includes(callsOpen)) throw new OutputParseError('tool_calls_in_reasoning')
  for (const literal of [BOS, EOS, THINK_START, THINK_END, DSML]) {
    if (output.reasoning.includes(literal) || output.content.includes(literal)) {
      throw new OutputParseError('control_token_in_text')
    }
  }
  return output
}

/** Keeps back a trailing end-of-sentence literal, or what may become one. */
class EosGate {
  #held = ''

  push(text: string): string {
    const all = this.#held + text
    this.#held = all.endsWith(EOS) ? EOS : heldSuffix(all, [EOS])
    return all.slice(0, all.length - this.#held.length)
  }

  finish(): { text: string } {
    return { text: this.#held === EOS ? '' : this.#held }
  }
}

const callsOpen = `<${DSML}tool_calls>`
const callsClose = `</${DSML}tool_calls>`
const invokeTag = `<${DSML}invoke`
const invokeClose = `</${DSML}invoke>`
const parameterTag = `<${DSML}parameter`
const parameterClose = `</${DSML}parameter>`
const nameAttribute = ' name="'
const invokeHeaderEnd = '">'
const parameterHeaderEnds = ['" string="true">', '" string="false">'] as const
/** A tool's or argument's name has to end within this many UTF-16 units. */
const headerCharsMax = 1024
/** Whitespace between tags; a longer run of it is none of theirs. */
const gapPattern = /^[ \t\r\n]{0,64}/
/** The newlines before a block belong to its markup, up to this many. */
const leadingNewlines = '\n\n'

/** Where a call may begin: the block's opener, or a call for which it was forgotten. */
const openers = [callsOpen, `${invokeTag}${nameAttribute}`] as const
const openerPattern = new RegExp(openers.join('|'), 'u')
const heldOpeners = openers.flatMap((opener) => [
  opener,
  `\n${opener}`,
  `${leadingNewlines}${opener}`,
])

interface Header {
  readonly name: string
  readonly end: string
  /** Of the whole header, in UTF-16 units. */
  readonly length: number
}

type State =
  | 'reasoning'
  | 'content'
  | 'invokes'
  | 'invoke_header'
  | 'parameters'
  | 'parameter_header'
  | 'value'
  | 'after_calls'

interface OpenCall {
  readonly index: number
  readonly shape: ToolShape | undefined
  readonly writer: ArgumentsWriter
  /** Text of the parameter being read; kept by the strict reading alone. */
  verbatim: string
  isString: boolean
}

/** Markup that may still turn out to be text: nothing of it has been sent. */
interface Attempt {
  readonly bare: boolean
  readonly firstIndex: number
  readonly events: ParserEvent[]
  /** Whether it got as far as naming a tool. */
  named: boolean
}

/**
 * Reads reasoning, content and tool calls from a text that comes in pieces. Each step looks at the
 * front of the buffer and either consumes some of it or waits for more.
 *
 * Consumed markup is kept in `consumed` until events stand for it, so that it can be given back as
 * content if what follows does not fit.
 */
class OutputMachine {
  readonly #options: OutputParserOptions
  readonly #strict: boolean
  #state: State
  #buffer = ''
  #consumed = ''
  #events: ParserEvent[] = []
  #attempt: Attempt | undefined
  #call: OpenCall | undefined
  /** The block under way has no opener, so it ends with its last call. */
  #bare = false
  #nextIndex = 0

  constructor(options: OutputParserOptions, strict: boolean) {
    this.#options = options
    this.#strict = strict
    this.#state = options.thinking ? 'reasoning' : 'content'
  }

  push(text: string): ParserEvent[] {
    this.#buffer += text
    this.#run()
    return this.#takeEvents()
  }

  finish(text: string): ParserEvent[] {
    this.#buffer += text
    this.#run()
    while (this.#attempt !== undefined) {
      this.#fail('unterminated')
      this.#run()
    }
    this.#end()
    return this.#takeEvents()
  }

  #run(): void {
    while (this.#step());
  }

  /** Whether anything was consumed or decided. */
  #step(): boolean {
    switch (this.#state) {
      case 'reasoning':
        return this.#reasoning()
      case 'content':
        return this.#content()
      case 'invokes':
        return this.#invokes()
      case 'invoke_header':
        return this.#invokeHeader()
      case 'parameters':
        return this.#parameters()
      case 'parameter_header':
        return this.#parameterHeader()
      case 'value':
        return this.#value()
      case 'after_calls':
        return this.#afterCalls()
    }
  }

  #reasoning(): boolean {
    const end = this.#buffer.indexOf(THINK_END)
    if (end < 0) {
      this.#emitText('reasoning', this.#take(this.#freeUnits([THINK_END])))
      return false
    }
    this.#emitText('reasoning', this.#take(end))
    this.#take(THINK_END.length)
    this.#state = 'content'
    return true
  }

  #content(): boolean {
    if (!this.#options.toolsAllowed) {
      this.#emitText('content', this.#take(this.#buffer.length))
      return false
    }
    const at = this.#openerAt()
    if (at < 0) {
      this.#emitText('content', this.#take(this.#freeUnits(heldOpeners)))
      return false
    }
    const newlines = this.#newlinesBefore(at)
    this.#emitText('content', this.#take(at - newlines))
    this.#bare = !this.#buffer.startsWith(callsOpen, newlines)
    this.#consume(newlines + (this.#bare ? invokeTag : callsOpen).length)
    this.#attempt = { bare: this.#bare, firstIndex: this.#nextIndex, events: [], named: false }
    this.#state = this.#bare ? 'invoke_header' : 'invokes'
    return true
  }

  #openerAt(): number {
    if (!this.#strict) return this.#buffer.search(openerPattern)
    const at = this.#buffer.indexOf(leadingNewlines + callsOpen)
    return at < 0 ? at : at + leadingNewlines.length
  }

  #newlinesBefore(at: number): number {
    const before = this.#buffer.slice(Math.max(0, at - leadingNewlines.length), at)
    return before.length - before.replace(/\n+$/, '').length
  }

  #invokes(): boolean {
    const { gap, rest } = this.#afterGap()
    if (rest.startsWith(invokeTag)) {
      this.#checkGap(gap, ['\n'])
      this.#consume(gap.length + invokeTag.length)
      this.#state = 'invoke_header'
      return true
    }
    // A block has at least one call: while this one's first is awaited, its end would be astray.
    if (rest.startsWith(callsClose) && this.#attempt === undefined) {
      this.#checkGap(gap, ['\n'])
      this.#take(gap.length + callsClose.length)
      this.#state = 'after_calls'
      return true
    }
    if (mayBecome(rest, [invokeTag, callsClose])) return false
    if (!this.#bare) return this.#fail('expected_invoke')
    this.#state = 'content'
    return true
  }

  #invokeHeader(): boolean {
    const header = this.#header([invokeHeaderEnd])
    if (header === 'waiting') return false
    if (header === 'bad') return this.#fail('bad_invoke_header')
    const shape = this.#options.tools?.get(header.name)
    // Only a tool of this request is called without a block; anything else talks about the markup.
    if (this.#attempt?.bare === true && shape === undefined) return this.#fail('unfit_bare_call')
    this.#consume(header.length)
    const index = this.#nextIndex
    this.#nextIndex += 1
    this.#emit({ type: 'tool_call_start', index, name: header.name })
    const writer = new ArgumentsWriter(shape)
    this.#call = { index, shape, writer, verbatim: '', isString: false }
    if (this.#attempt?.bare === true) this.#attempt.named = true
    else this.#commit()
    this.#state = 'parameters'
    return true
  }

  #parameters(): boolean {
    const call = this.#openCall()
    const { gap, rest } = this.#afterGap()
    if (rest.startsWith(parameterTag)) {
      this.#checkGap(gap, ['\n'])
      this.#consume(gap.length + parameterTag.length)
      this.#state = 'parameter_header'
      return true
    }
    if (rest.startsWith(invokeClose)) {
      this.#checkGap(gap, call.writer.isEmpty() ? ['\n', '\n\n'] : ['\n'])
      this.#consume(gap.length + invokeClose.length)
      return this.#closeCall(call)
    }
    if (mayBecome(rest, [parameterTag, invokeClose])) return false
    return this.#fail('expected_parameter')
  }

  #closeCall(call: OpenCall): boolean {
    const fits = call.shape?.required.every((name) => call.writer.has(name)) ?? true
    this.#emitArguments(call, call.writer.close())
    if (this.#attempt !== undefined && !fits) return this.#fail('unfit_bare_call')
    this.#emit({ type: 'tool_call_end', index: call.index, complete: true })
    this.#call = undefined
    this.#commit()
    this.#state = 'invokes'
    return true
  }

  #parameterHeader(): boolean {
    const call = this.#openCall()
    const header = this.#header(parameterHeaderEnds)
    if (header === 'waiting') return false
    if (header === 'bad') return this.#fail('bad_parameter_header')
    if (this.#strict && call.writer.has(header.name)) return this.#fail('duplicate_parameter')
    this.#consume(header.length)
    call.isString = header.end === parameterHeaderEnds[0]
    call.verbatim = ''
    this.#emitArguments(call, call.writer.start(header.name, call.isString))
    this.#settle()
    this.#state = 'value'
    return true
  }

  #value(): boolean {
    const call = this.#openCall()
    const end = this.#buffer.indexOf(parameterClose)
    const text = this.#consume(end < 0 ? this.#freeUnits([parameterClose]) : end)
    if (this.#strict) call.verbatim += text
    this.#emitArguments(call, call.writer.value(text))
    this.#settle()
    if (end < 0) return false
    if (this.#strict && !call.isString && jsonKind(call.verbatim) === undefined) {
      return this.#fail('invalid_json_value')
    }
    this.#consume(parameterClose.length)
    this.#emitArguments(call, call.writer.end())
    this.#settle()
    this.#state = 'parameters'
    return true
  }

  #afterCalls(): boolean {
    if (this.#buffer === '') return false
    if (this.#strict) return this.#fail('text_after_calls')
    const { rest } = this.#afterGap()
    if (rest === '') return false
    this.#state = 'content'
    return true
  }

  /** Whitespace at the front of the buffer, and what follows it. */
  #afterGap(): { gap: string; rest: string } {
    const gap = gapPattern.exec(this.#buffer)?.[0] ?? ''
    return { gap, rest: this.#buffer.slice(gap.length) }
  }

  #checkGap(gap: string, allowed: readonly string[]): void {
    if (this.#strict && !allowed.includes(gap)) throw new OutputParseError('bad_whitespace')
  }

  /** The rest of a tag from its name attribute on. */
  #header(ends: readonly string[]): Header | 'waiting' | 'bad' {
    const from = nameAttribute.length
    if (!this.#buffer.startsWith(nameAttribute)) {
      return mayBecome(this.#buffer, [nameAttribute]) ? 'waiting' : 'bad'
    }
    const window = this.#buffer.slice(from, from + headerCharsMax)
    const found = ends
      .map((end) => ({ end, at: window.indexOf(end) }))
      .filter(({ at }) => at >= 0)
      .toSorted((a, b) => a.at - b.at)[0]
    const name = window.slice(0, found?.at)
    if (name.includes('\n') || name.length === headerCharsMax || found?.at === 0) return 'bad'
    if (found === undefined) return 'waiting'
    return { name, end: found.end, length: from + found.at + found.end.length }
  }

  #openCall(): OpenCall {
    assert(this.#call !== undefined, 'parameters belong to a call')
    return this.#call
  }

  /** Gives up on the markup: what no event stands for is content, and reading goes on after it. */
  #fail(problem: OutputProblem): true {
    if (this.#strict) throw new OutputParseError(problem)
    const attempt = this.#attempt
    this.#attempt = undefined
    if (attempt === undefined) this.#abandonCall()
    else this.#nextIndex = attempt.firstIndex
    this.#call = undefined
    this.#emitText('content', this.#consumed)
    this.#consumed = ''
    // Prose that mentions a call's tag is no failure; a block, or a call of a tool we have, is.
    if (attempt === undefined || !attempt.bare || attempt.named) {
      this.#emit({ type: 'unparsed', reason: problem, fragment: '' })
    }
    this.#state = 'content'
    return true
  }

  #abandonCall(): void {
    const call = this.#call
    if (call === undefined) return
    this.#emitArguments(call, call.writer.abandon())
    this.#emit({ type: 'tool_call_end', index: call.index, complete: false })
    this.#call = undefined
  }

  /** Brings out what was held back for text that never came. */
  #end(): void {
    const rest = this.#consumed + this.#buffer
    switch (this.#state) {
      case 'reasoning':
        if (this.#strict) throw new OutputParseError('missing_think_end')
        return this.#emitText('reasoning', rest)
      case 'content':
        return this.#emitText('content', rest)
      case 'after_calls':
        return
      case 'invokes':
      case 'invoke_header':
      case 'parameters':
      case 'parameter_header':
      case 'value':
        if (this.#bare && this.#call === undefined && rest.trim() === '') return
        if (this.#strict) throw new OutputParseError('unterminated')
        this.#abandonCall()
        this.#emit({ type: 'unparsed', reason: 'unterminated', fragment: rest })
    }
  }

  #take(units: number): string {
    const text = this.#buffer.slice(0, units)
    this.#buffer = this.#buffer.slice(units)
    return text
  }

  /** Takes markup that may have to be given back. */
  #consume(units: number): string {
    const text = this.#take(units)
    this.#consumed += text
    return text
  }

  /** Events stand for all that was consumed, unless they may still be taken back. */
  #settle(): void {
    if (this.#attempt === undefined) this.#consumed = ''
  }

  /** From here on the markup is taken for what it looks like. */
  #commit(): void {
    const attempt = this.#attempt
    this.#attempt = undefined
    this.#consumed = ''
    for (const event of attempt?.events ?? []) this.#emit(event)
  }

  /** How much of the buffer cannot be the beginning of a pattern. */
  #freeUnits(patterns: readonly string[]): number {
    return this.#buffer.length - heldSuffix(this.#buffer, patterns).length
  }

  #emitText(type: 'reasoning' | 'content', text: string): void {
    if (text !== '') this.#emit({ type, text })
  }

  #emitArguments(call: OpenCall, text: string): void {
    if (text !== '') this.#emit({ type: 'tool_call_arguments', index: call.index, text })
  }

  #emit(event: ParserEvent): void {
    appendEvent(this.#attempt?.events ?? this.#events, event)
  }

  #takeEvents(): ParserEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }
}
