/** Names of the headers that pass between client, edge and backend. */
export const REQUEST_ID_HEADER = 'x-request-id'

/** Output tokens the edge has granted this request; the backend stops there with `length`. */
export const GRANTED_OUTPUT_TOKENS_HEADER = 'x-sluice-granted-output-tokens'
