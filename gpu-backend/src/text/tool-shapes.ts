import { jsonAt } from './python-json.ts'
import type { JsonNode } from './python-json.ts'

/** What the output parser has to know of a tool. */
export interface ToolShape {
  /** Undefined where the schema lists none: any argument name may then be meant. */
  readonly properties: ReadonlySet<string> | undefined
  readonly required: readonly string[]
}

export type ToolShapes = ReadonlyMap<string, ToolShape>

/** Shapes by name, from the request's `function` objects; one without a name is left out. */
export function toolShapes(functions: readonly JsonNode[]): ToolShapes {
  const shapes = new Map<string, ToolShape>()
  for (const definition of functions) {
    const name = jsonAt(definition, 'name')
    if (name?.kind !== 'string') continue
    const properties = jsonAt(definition, 'parameters', 'properties')
    const required = jsonAt(definition, 'parameters', 'required')
    shapes.set(name.value, {
      properties: properties?.kind === 'object' ? new Set(properties.members.keys()) : undefined,
      required: required?.kind === 'array' ? required.items.flatMap(stringValue) : [],
    })
  }
  return shapes
}

function stringValue(node: JsonNode): string[] {
  return node.kind === 'string' ? [node.value] : []
}
