#!/usr/bin/env node
/**
 * The command line: one file a command, and here what they have in common at the end. Whatever goes wrong becomes
 * one sentence on stderr and an exit code (terminal.ts, EXIT); with --json also the one document on stdout. Ends by
 * itself, and promptly.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { codeOf } from '../errors.ts'
import { addCatchUp } from './catch-up.ts'
import { addClone } from './clone.ts'
import { addDial } from './dial.ts'
import { addDev } from './dev.ts'
import { addDoctor } from './doctor.ts'
import { addInit } from './init.ts'
import { addPrune } from './prune.ts'
import { addResolve } from './resolve.ts'
import { addStatus } from './status.ts'
import { EXIT, explain, oneSentence, sayJson, UsageError, watchSignals } from './terminal.ts'
import { addUninstall } from './uninstall.ts'
import { addVerify } from './verify.ts'

const EXAMPLE = `$ pg-quorum dev                      # servers to play with, or your own:
$ export PG_QUORUM_REPLICAS=postgres://…,postgres://…,postgres://…
$ pg-quorum init                     # once
$ pg-quorum status                   # whenever you want to know
"pg-quorum help <command>" says more about each.`

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}
const program = new Command('pg-quorum')
  .description(
    'Turns N independent PostgreSQL servers into one database that does not stop\n' +
      'and does not lose data. These commands set it up, look at it and repair it.',
  )
  .version(version)
  .exitOverride()
  .configureHelp({
    helpWidth: Math.min(process.stdout.columns ?? 80, 80),
    subcommandTerm: (c) =>
      `${c.name()}` +
      `${c.registeredArguments.length > 0 ? ` ${c.registeredArguments.map((a) => `[${a.name()}]`).join(' ')}` : ''}`,
  })
addInit(program)
addStatus(program)
addCatchUp(program)
addVerify(program)
addClone(program)
addResolve(program)
addPrune(program)
addDoctor(program)
addDial(program)
addDev(program)
addUninstall(program)
explain(program, EXAMPLE, true)

function codeFor(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.fine : EXIT.usage
  return error instanceof UsageError || codeOf(error) === '22023' ? EXIT.usage : EXIT.failed
}

process.stdout.on('error', () => process.exit(EXIT.failed)) // whoever read our output has gone
watchSignals()
try {
  await program.parseAsync()
} catch (error) {
  const code = codeFor(error)
  process.exitCode = code
  // Commander has said its sentence already.
  if (!(error instanceof CommanderError)) process.stderr.write(`pg-quorum: ${oneSentence(error)}\n`)
  if (code !== EXIT.fine && process.argv.includes('--json'))
    sayJson({ error: oneSentence(error).replace(/^error: /, ''), exit_code: code })
}
// A frozen server can keep a socket open; nothing that is left has a waiter.
process.stdout.write('', () => process.exit(process.exitCode ?? EXIT.fine))
