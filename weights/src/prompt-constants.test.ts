import { describe, expect, it } from 'vitest'
import { CheckpointError } from './checkpoint-error.ts'
import { parsePromptConstants } from './prompt-constants.ts'
import { readPythonConstants } from './python-literals.ts'
import { toyEncoderSource } from './toy/encoder.ts'

const value = (source: string): unknown =>
  readPythonConstants(source, new Set(['X'])).get('X') ?? null
const refusal = (act: () => unknown): unknown => {
  try {
    return act()
  } catch (error) {
    return error instanceof CheckpointError ? [error.code, error.subject] : error
  }
}

describe('a Python constant', () => {
  it.each([
    ['X = "a"', 'a'],
    ["X = 'it\\'s'", "it's"],
    ['X: str = "a"', 'a'],
    ['X: Dict[str, int] = "a"  # why', 'a'],
    ['X = "a" \'b\' """c"""', 'abc'],
    ['X = ("a"\n    "b"  # between\n\n  "c")', 'abc'],
    ['X = (("a") + "b" + ("c" "d"))', 'abcd'],
    ['X = "a" \\\n  "b"', 'ab'],
    ['X = """two\nlines "quoted" and \'so\'\n"""', 'two\nlines "quoted" and \'so\'\n'],
    ['X = """a\\\nb"""', 'ab'],
    ["X = '''a\"\"\"b'''", 'a"""b'],
    ['X = "\\n\\t\\\\\\"\\r\\a\\b\\f\\v\\0"', '\n\t\\"\r\u0007\b\f\v\0'],
    ['X = "\\x41\\u00e9\\U0001F600\\101\\7"', 'Aé😀A\u0007'],
    ['X = "\\d \\% \\constructor"', '\\d \\% \\constructor'],
    ['X = r"\\n\\"x"', '\\n\\"x'],
    ['X = u"é｜▁"', 'é｜▁'],
    ['X = ""', ''],
    ['X = "a"\r\nY = 1\r\n', 'a'],
    ['X = """a\r\nb\rc"""', 'a\nb\nc'],
    ['\uFEFFX = "a"', 'a'],
    ['"""X = \'no\'\nX = 1\n"""\nX = "yes"', 'yes'],
    ['# X = "no"\nX = "yes"', 'yes'],
    ['def f():\n    X = g(1)\n\nX = "yes"', 'yes'],
    ['f(\nX = "no")\nX = "yes"', 'yes'],
    ['X == "no"\nY = X = "no"\nXX = "no"\nX = "yes"', 'yes'],
    ['X += 1\nX.y = 2\nX[0] = 3', null],
    ['y = f"{a}" + b"raw" + 0x1F\nX = "yes"', 'yes'],
    ['Y = 1', null],
    ['', null],
  ])('%j has its value', (source, expected) => {
    expect(value(source)).toBe(expected)
  })

  it('can be a table of texts', () => {
    const source =
      'X: Dict[str, str] = {\n  "low": "",\n  "high": (\n "a"\n "b"\n ), \'max\': "c",\n}\n'
    expect(value(source)).toEqual(
      new Map([
        ['low', ''],
        ['high', 'ab'],
        ['max', 'c'],
      ]),
    )
    expect(value('X = {}')).toEqual(new Map())
  })

  it.each([
    ['a name', 'X = Y'],
    ['a call', 'X = open("/etc/passwd").read()'],
    ['a method of a literal', 'X = "a".upper()'],
    ['an f-string', 'X = f"{1}"'],
    ['bytes', 'X = b"a"'],
    ['a number', 'X = 1'],
    ['a repetition', 'X = "a" * 3'],
    ['a format', 'X = "a" % 3'],
    ['a choice', 'X = "a" if True else "b"'],
    ['a tuple', 'X = ("a", "b")'],
    ['a list', 'X = ["a"]'],
    ['nothing', 'X ='],
    ['an open parenthesis', 'X = ("a"'],
    ['a table in a table', 'X = {"a": {"b": "c"}}'],
    ['a table with a key twice', 'X = {"a": "b", "a": "c"}'],
    ['a table without commas', 'X = {"a": "b" "c": "d"}'],
    ['a character by name', 'X = "\\N{BULLET}"'],
    ['a broken escape', 'X = "\\x4"'],
    ['a character beyond Unicode', 'X = "\\U00110000"'],
    ['half a surrogate pair', 'X = "\\ud83d"'],
    ['two values', 'X = "a"\nX = "b"'],
    ['deep nesting', `X = ${'('.repeat(100)}"a"${')'.repeat(100)}`],
  ])('that is %s is refused by its name', (_, source) => {
    expect(refusal(() => value(source))).toEqual(['prompt_constants_invalid', 'X'])
  })

  it.each([
    ['a string that does not end', 'Y = "a\nX = "b"'],
    ['a long string that does not end', 'Y = """a\nX = "b"'],
    ['more than a mebibyte', `X = "${'a'.repeat(2 ** 20)}"`],
  ])('in a file with %s is refused', (_, source) => {
    expect(refusal(() => value(source))).toEqual(['prompt_constants_invalid', 'source'])
  })
})

const tokens = 'dsml_token = "｜D｜"\nthinking_start_token = "<t>"\nthinking_end_token = "</t>"\n'

describe('prompt constants', () => {
  it('of the toy are its own', () => {
    const { release, promptConstants } = parsePromptConstants(toyEncoderSource)
    expect(release).toBe('preview')
    expect(Object.keys(promptConstants).sort()).toEqual([
      'effortMax',
      'responseFormat',
      'toolsHead',
      'toolsTail',
    ])
    expect(promptConstants.toolsHead).toMatch(/^## Tools\n\nThese tools.*<｜DSML｜invoke name/s)
    expect(promptConstants.toolsTail).toMatch(/^\n\nCall tools by these names/)
    expect(promptConstants.responseFormat).toMatch(/this schema:\n$/)
    expect(promptConstants.effortMax).toMatch(/^Effort: everything\.\n/)
  })

  it('have the tokens in place of their names, and single braces for double ones', () => {
    const source = `${tokens}TOOLS_TEMPLATE = """A {{x}} <{dsml_token}> {thinking_start_token}
{tool_schemas}
B {thinking_end_token}
"""`
    expect(parsePromptConstants(source).promptConstants).toEqual({
      toolsHead: 'A {x} <｜D｜> <t>\n',
      toolsTail: '\nB </t>\n',
    })
  })

  it('of the July release are a text for high and another for max', () => {
    const source = 'REASONING_EFFORT_PROMPTS: Dict = {"low": "", "high": "H\\n", "max": "M\\n"}\n'
    expect(parsePromptConstants(source)).toEqual({
      release: '0731',
      promptConstants: { effortHigh: 'H\n', effortMax: 'M\n' },
    })
  })

  it('of a file without any are none', () => {
    expect(parsePromptConstants('print("hello")\n')).toEqual({
      release: 'preview',
      promptConstants: {},
    })
  })

  it.each([
    ['TOOLS_TEMPLATE', `${tokens}TOOLS_TEMPLATE = "no place for schemas"`],
    ['TOOLS_TEMPLATE', `${tokens}TOOLS_TEMPLATE = "{tool_schemas} {tool_schemas}"`],
    ['TOOLS_TEMPLATE', `${tokens}TOOLS_TEMPLATE = "{tool_schemas} {other}"`],
    ['TOOLS_TEMPLATE', `${tokens}TOOLS_TEMPLATE = "{tool_schemas} {dsml_token!r}"`],
    ['TOOLS_TEMPLATE', 'TOOLS_TEMPLATE = "<{dsml_token}> {tool_schemas}"'],
    ['TOOLS_TEMPLATE', 'TOOLS_TEMPLATE = {"a": "b"}'],
    ['response_format_template', 'response_format_template = "{schema} and more"'],
    ['REASONING_EFFORT_MAX', 'REASONING_EFFORT_MAX = load()'],
    ['REASONING_EFFORT_PROMPTS', 'REASONING_EFFORT_PROMPTS = {"low": "", "high": "H"}'],
    [
      'REASONING_EFFORT_PROMPTS',
      'REASONING_EFFORT_PROMPTS = {"low": "L", "high": "H", "max": "M"}',
    ],
    ['REASONING_EFFORT_PROMPTS', 'REASONING_EFFORT_PROMPTS = "H"'],
  ])('name %s when it cannot be used: %j', (name, source) => {
    expect(refusal(() => parsePromptConstants(source))).toEqual(['prompt_constants_invalid', name])
  })
})
