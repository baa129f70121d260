/** A yes before something that is not easily taken back: from a terminal, or said beforehand with --yes. */
import { createInterface } from 'node:readline/promises'
import { UsageError } from './terminal.ts'

export async function confirm(
  question: string,
  options: { readonly yes?: true; readonly json?: true },
): Promise<boolean> {
  if (options.yes) return true
  if (!process.stdin.isTTY || options.json)
    throw new UsageError(
      'this asks before it changes anything; where nobody can answer, say --yes (or --dry-run, to look)',
    )
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y]es, [n]o: `)).trim())
  } finally {
    terminal.close()
  }
}
