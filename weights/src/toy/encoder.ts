/**
 * The toy's `encoding/encoding_dsv4.py`: the constants an import reads from a release, with the
 * toy's own wording. Nothing ever runs it; it is written so that the toy takes the same way into a
 * manifest as a real checkpoint.
 */
export const toyEncoderSource = `"""Prompt texts of the toy checkpoint."""
from typing import Dict

thinking_start_token: str = "<think>"
thinking_end_token: str = "</think>"
dsml_token: str = "｜DSML｜"

response_format_template: str = (
    "## Form of the answer\\n\\n"
    "Answer with one JSON value that fits this schema:\\n{schema}"
)

REASONING_EFFORT_MAX = (
    "Effort: everything.\\n"
    "Think every step through, write each of them down, and check the result before answering.\\n\\n"
)

TOOLS_TEMPLATE = """## Tools

These tools are at hand. To call one or more of them, write a block of this form:

<{dsml_token}tool_calls>
<{dsml_token}invoke name="$NAME">
<{dsml_token}parameter name="$KEY" string="true|false">$VALUE</{dsml_token}parameter>
</{dsml_token}invoke>
</{dsml_token}tool_calls>

Text goes in as it is, with string="true"; everything else as JSON, with string="false".
After {thinking_start_token}, finish the reasoning with {thinking_end_token} before the block.

### Schemas

{tool_schemas}

Call tools by these names and with these parameters only.
"""
`
