import type { Task } from './control-tokens.ts'
import type { JsonNode } from './python-json.ts'

/** One part of a list content; parts other than `text` are rendered as a note naming the type. */
interface ContentPart {
  readonly type: string
  readonly text?: string | undefined
}

export type MessageContent = string | readonly ContentPart[]

/** Opens the conversation or stands anywhere in it; carries the tools and the answer's format. */
export interface SystemMessage {
  readonly role: 'system' | 'developer'
  readonly content: MessageContent
  /** The `function` objects of the request's tools, in source form. */
  readonly tools?: readonly JsonNode[] | undefined
  readonly responseFormat?: JsonNode | undefined
  readonly task?: Task | undefined
}

interface UserMessage {
  readonly role: 'user'
  readonly content: MessageContent
  readonly task?: Task | undefined
}

export interface ToolCall {
  readonly id: string
  readonly name: string
  /** JSON text as the model or the client wrote it; need not be valid. */
  readonly arguments: string
}

export interface AssistantMessage {
  readonly role: 'assistant'
  readonly content: MessageContent | null
  readonly reasoningContent?: string | undefined
  readonly toolCalls?: readonly ToolCall[] | undefined
  readonly task?: Task | undefined
  /** Leaves the end-of-sentence token off. */
  readonly woEos?: boolean | undefined
  /**
   * On the last message: generation continues this text. Without content it continues the reasoning
   * (thinking mode), so the chain of thought stays open.
   */
  readonly prefix?: boolean | undefined
}

interface ToolMessage {
  readonly role: 'tool'
  readonly content: MessageContent
  readonly toolCallId: string
}

/** A note such as today's date; belongs before the user message it serves. */
interface LatestReminderMessage {
  readonly role: 'latest_reminder'
  readonly content: MessageContent
  readonly task?: Task | undefined
}

export type Message =
  | SystemMessage
  | UserMessage
  | AssistantMessage
  | ToolMessage
  | LatestReminderMessage

export interface Conversation {
  readonly messages: readonly Message[]
}

/** A piece of a user turn: what the user wrote, or what a tool returned. */
type UserBlock =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tool_result'; readonly callId: string; readonly text: string }

/** User messages and tool results that follow each other, as the one turn they are rendered as. */
export interface UserTurn {
  readonly role: 'user'
  readonly blocks: readonly UserBlock[]
  readonly task?: Task | undefined
}

export type Turn = SystemMessage | AssistantMessage | LatestReminderMessage | UserTurn

/** What a request asks for beside its messages; both ride on the system message. */
export interface SystemExtras {
  readonly tools?: readonly JsonNode[] | undefined
  readonly responseFormat?: JsonNode | undefined
}

/**
 * The messages with tools and answer format put on the system message that opens them. Without
 * such a message an empty one is inserted in front, since the models know tools from there only.
 */
export function attachToSystem(
  messages: readonly Message[],
  extras: SystemExtras,
): readonly Message[] {
  const hasTools = extras.tools !== undefined && extras.tools.length > 0
  if (!hasTools && extras.responseFormat === undefined) return messages
  const opening = messages.findIndex((message) => message.role !== 'latest_reminder')
  const system = messages[opening]
  if (system?.role !== 'system') return [{ role: 'system', content: '', ...extras }, ...messages]
  return messages.with(opening, { ...system, ...extras })
}

/** The text of a content: its text parts, a blank line between two. */
export function contentText(content: MessageContent | null): string {
  if (content === null) return ''
  if (typeof content === 'string') return content
  return content
    .map((part) => (part.type === 'text' ? (part.text ?? '') : `[Unsupported ${part.type}]`))
    .join('\n\n')
}

/** Place of the last turn that a person (or the developer role) opened; -1 without one. */
export function lastUserIndex(turns: readonly Turn[]): number {
  return turns.findLastIndex((turn) => turn.role === 'user' || turn.role === 'developer')
}

/**
 * Messages as turns: user messages and tool results merged, tool results in the order of the calls
 * they answer. A user turn with a task is closed: the next user message opens a new one.
 */
export function mergeTurns(messages: readonly Message[]): readonly Turn[] {
  const turns: Turn[] = []
  let blocks: UserBlock[] = []
  for (const message of messages) {
    if (message.role !== 'user' && message.role !== 'tool') {
      turns.push(message)
      continue
    }
    const task = message.role === 'user' ? message.task : undefined
    const last = turns.at(-1)
    if (last?.role === 'user' && (message.role === 'tool' || last.task === undefined)) {
      blocks.push(blockOf(message))
      if (task !== undefined) turns.splice(-1, 1, { role: 'user', blocks, task })
    } else {
      blocks = [blockOf(message)]
      turns.push({ role: 'user', blocks, task })
    }
  }
  return sortToolResults(turns)
}

function blockOf(message: UserMessage | ToolMessage): UserBlock {
  const text = contentText(message.content)
  if (message.role === 'user') return { kind: 'text', text }
  return { kind: 'tool_result', callId: message.toolCallId, text }
}

function sortToolResults(turns: readonly Turn[]): readonly Turn[] {
  let callOrder = new Map<string, number>()
  return turns.map((turn) => {
    if (turn.role === 'assistant' && turn.toolCalls !== undefined && turn.toolCalls.length > 0) {
      callOrder = new Map(turn.toolCalls.map((call, index) => [call.id, index]))
    }
    return turn.role === 'user' ? { ...turn, blocks: inCallOrder(turn.blocks, callOrder) } : turn
  })
}

/** Sorts the tool results among the slots they occupy; texts stay where they are. */
function inCallOrder(
  blocks: readonly UserBlock[],
  callOrder: ReadonlyMap<string, number>,
): readonly UserBlock[] {
  const place = (block: UserBlock): number =>
    block.kind === 'tool_result' ? (callOrder.get(block.callId) ?? 0) : 0
  const results = blocks
    .filter((block) => block.kind === 'tool_result')
    .toSorted((a, b) => place(a) - place(b))
    .values()
  return blocks.map((block) =>
    block.kind === 'tool_result' ? (results.next().value ?? block) : block,
  )
}

/** Whether reasoning of earlier turns is left out: not as soon as any message carries tools. */
export function dropsThinking(messages: readonly Message[], dropThinking: boolean): boolean {
  const hasTools = messages.some(
    (message) =>
      (message.role === 'system' || message.role === 'developer') &&
      message.tools !== undefined &&
      message.tools.length > 0,
  )
  return dropThinking && !hasTools
}

/** The turns without developer messages that were answered before the last user turn. */
export function withoutStaleDevelopers(turns: readonly Turn[]): readonly Turn[] {
  const last = lastUserIndex(turns)
  return turns.filter((turn, index) => index >= last || turn.role !== 'developer')
}
