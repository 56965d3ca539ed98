/** What the toy's merges are learnt from. Changing a letter changes its token ids. */
export const toyCorpus = `
The checkpoint is small and the words it says mean nothing. It is here so that every part of the
service can be tried on a laptop: the gateway, the scheduler, the kernels, the stream and the bill.
A request comes in, the text is cut into tokens, the tokens go through the layers, and the next
token comes out. Then the next one, and the next one after that, until the answer ends or the limit
is reached. Each token is counted once. The count is written down before the answer is complete.
There are three kinds of attention in this model. The first looks at a short window of tokens. The
second compresses four tokens into one entry and chooses the entries that matter for the query. The
third compresses a longer run and looks at all of them. Every layer has experts, and each token is
sent to a few of these, while one expert is shared between all of the tokens.
Please write a function that adds the numbers in a list and returns the total.
function total(values) { let sum = 0; for (const value of values) { sum += value; } return sum; }
const answer = { "name": "total", "arguments": { "values": [1, 2, 3] }, "result": 6 };
What is the weather in the city today? The weather is warm, with some rain in the evening.
Who wrote this, and when? It was written by hand, over an afternoon, with the window open.
If the tool returns an error, then say what the error was and ask the user what they want to do.
今天的天气很好。你好，请问今天的天气怎么样？我们的模型很小，它说的话没有意义。
`
