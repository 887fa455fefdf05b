// Sends messages by real clients, as the test asks on standard input, one JSON
// object a line: {"id", "client", "url", "text"}. What the client's caller saw
// is answered in the same way: {"id", "ok", "said"}. All run at once.
//
// Each client is called as its own documentation does. What is not its default
// is said beside it.
import readline from 'node:readline'
import Anthropic from '@anthropic-ai/sdk'
import { PublishCommand, SNSClient } from '@aws-sdk/client-sns'
import { retry } from '@octokit/plugin-retry'
import { Octokit } from '@octokit/rest'
import { LogLevel, WebClient } from '@slack/web-api'
import axios from 'axios'
import axiosRetry, { isNetworkError, isRetryableError } from 'axios-retry'
import got from 'got'
import OpenAI from 'openai'
import Stripe from 'stripe'
import { Agent, interceptors, request } from 'undici'

const messages = text => [{ role: 'user', content: text }]

const clients = {
  openai: (url, text) =>
    new OpenAI({ apiKey: 'key', baseURL: `${url}/v1` }).chat.completions.create({ model: 'm', messages: messages(text) }),

  anthropic: (url, text) =>
    new Anthropic({ apiKey: 'key', baseURL: url }).messages.create({ model: 'm', max_tokens: 16, messages: messages(text) }),

  // It has no base path: the route is called as its paths begin, v1.
  stripe: (url, text) => {
    const { hostname: host, port } = new URL(url)
    return new Stripe('sk_test_key', { protocol: 'http', host, port, telemetry: false })
      .charges.create({ amount: 100, currency: 'eur', source: 'tok', description: text })
  },

  // By default it retries for half an hour.
  slack: (url, text) =>
    new WebClient('xoxb-token', { slackApiUrl: `${url}/api/`, logLevel: LogLevel.ERROR, retryConfig: { retries: 2 } })
      .chat.postMessage({ channel: 'C1', text }),

  // By default it waits for 1, 4 and 9 seconds.
  octokit: (url, text) =>
    new (Octokit.plugin(retry))({ auth: 'token', baseUrl: url, log: quiet, retry: { retries: 2 } })
      .rest.issues.createComment({ owner: 'o', repo: 'r', issue_number: 1, body: text }),

  sns: (url, text) =>
    new SNSClient({ endpoint: url, region: 'eu-west-1', credentials: { accessKeyId: 'id', secretAccessKey: 'key' } })
      .send(new PublishCommand({ TopicArn: 'arn:aws:sns:eu-west-1:1:t', Message: text })),

  // By default it retries no POST; this is how it is told to.
  got: (url, text) => got.post(url, { json: { text }, retry: { limit: 2, methods: ['POST'] } }).json(),

  // By default it retries no POST either.
  axios: (url, text) => {
    const client = axios.create()
    axiosRetry(client, {
      retries: 3,
      retryDelay: axiosRetry.exponentialDelay,
      retryCondition: error => isNetworkError(error) || isRetryableError(error),
    })
    return client.post(url, { text })
  },

  // By default it retries no POST either, and answers with the last status.
  undici: async (url, text) => {
    const dispatcher = new Agent().compose(interceptors.retry({ maxRetries: 2, methods: ['POST'] }))
    const { statusCode, body } = await request(url, { method: 'POST', body: JSON.stringify({ text }), dispatcher })
    await body.dump()
    if (statusCode !== 200) throw new Error(`status ${statusCode}`)
  },
}

const quiet = { debug() {}, info() {}, warn() {}, error() {} }

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, client, url, text } = JSON.parse(line)
  const answer = (ok, said) => process.stdout.write(JSON.stringify({ id, ok, said: String(said).slice(0, 300) }) + '\n')
  clients[client](url, text).then(() => answer(true, ''), error => answer(false, error?.message ?? error))
}
process.exit()
