/** Goes up with every change after which the same request may be answered with other tokens. */
export const engineVersion = 'sluice-2'
