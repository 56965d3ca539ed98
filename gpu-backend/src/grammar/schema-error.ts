/** A schema that answers cannot be held to. */
export class SchemaError extends Error {
  /** Of the schema's part at fault, from the request's root. */
  readonly path: string

  constructor(path: string, problem: string) {
    super(problem)
    this.name = 'SchemaError'
    this.path = path
  }
}
