/** Names of the headers that pass between client, edge and backend. */
export const REQUEST_ID_HEADER = 'x-request-id'

/** Output tokens the edge has granted this request; the backend stops there with `length`. */
export const GRANTED_OUTPUT_TOKENS_HEADER = 'x-sluice-granted-output-tokens'

/** Who goes first at the engine: a whole number from -9 to 9, higher first; 0 where it is absent. */
export const PRIORITY_HEADER = 'x-sluice-priority'
export const PRIORITY_MAX = 9

/**
 * Milliseconds from its arrival within which the answer has to be whole. A span, not a time of day:
 * two machines' clocks differ.
 */
export const DEADLINE_HEADER = 'x-sluice-deadline-ms'

/**
 * Seconds for which a stream goes on after its client has gone, so that it can be taken up again.
 * Without it a client that goes ends the generation at once.
 */
export const RESUMABLE_HEADER = 'x-sluice-resumable'
export const RESUMABLE_SECONDS_MAX = 300

/** The last event a client has seen, as browsers' event sources send it; resuming starts after it. */
export const LAST_EVENT_ID_HEADER = 'last-event-id'
