/**
 * `pg-quorum dial`: says, or sets, on how many members every write is, whoever makes it; `pg-quorum explain`: what
 * that bears, without asking any server.
 */
import { Option, type Command } from 'commander'
import { Pool } from '../pool/pool.ts'
import { leastRead, quorumFrom, quorumOf } from '../protocol/dial.ts'
import { outlook } from '../protocol/outlook.ts'
import { survey } from './survey.ts'
import { count, dress, EXIT, fitted, say, sayJson, urlsOf, UsageError, wholeNumber, type Common } from './terminal.ts'

const DIAL = `$ pg-quorum dial all
Every write is on all 3 replicas now; a strong read asks 1.
Lost  writes   strong reads  weaker reads
0     go on    go on         go on
1-2   refused  go on         go on
3     refused  refused       refused`

const EXPLAIN = `$ pg-quorum explain --members 5 majority
Every write is on 3 of 5 replicas, a strong read asks 3.
Lost  writes   strong reads  weaker reads
0-2   go on    go on         go on
3-4   refused  refused       go on
5     refused  refused       refused`

export function addDial(program: Command): void {
  dress(
    program
      .command('dial')
      .argument('[position]', 'majority, all, or write,read such as 3,1')
      .description('say or set on how many replicas every write is')
      .addOption(
        new Option(
          '--lost <count>',
          'so many replicas are destroyed for good, and will only\ncome back as clones: the change does without them',
        ).argParser(wholeNumber(1, 99)),
      ),
    DIAL,
  ).action(async (position: string | undefined, options: Common & { lost?: number }) => {
    const urls = urlsOf(options.replicas ?? [])
    const found = await survey(urls)
    if (position === undefined) return show(urls.length, found.write_quorum, 'is on', options.json)
    const quorum = quorumFrom(position)
    const { write } = quorumOf(quorum, urls.length)
    const pool = new Pool({ replicas: urls, max: 1 })
    try {
      await pool.setClusterQuorum(quorum, options.lost === undefined ? {} : { lost: options.lost })
    } finally {
      await pool.end()
    }
    show(urls.length, write, 'is now on', options.json)
  })
  dress(
    program
      .command('explain')
      .argument('[position]', 'majority (the default), all, or write,read such as 3,2')
      .description('say what a number of replicas at a position of the dial bears')
      .addOption(
        new Option('-m, --members <count>', 'how many replicas; default: as many as are given').argParser(
          wholeNumber(1, 99),
        ),
      ),
    EXPLAIN,
  ).action((position: string | undefined, options: Common & { members?: number }) => {
    const members = options.members ?? urlsOf(options.replicas ?? []).length
    const { write, read } = quorumOf(quorumFrom(position ?? 'majority'), members)
    if (members === 2) process.stderr.write('pg-quorum: two replicas bear no loss of writes; three bear one\n')
    show(members, write, 'is on', options.json, read)
  })
}

function show(
  members: number,
  write: number,
  is: string,
  json: true | undefined,
  read = leastRead(members, write),
): void {
  if (members < 1) throw new UsageError('no replicas')
  const lines = outlook(members, write, read)
  if (json) return sayJson({ members, write, read, outlook: lines })
  fitted(
    `Every write ${is} ${write === members ? `all ${members}` : `${write} of ${members}`} replicas, ` +
      `a strong read asks ${read}.`,
    0,
  ).forEach(say)
  say('Lost  writes   strong reads  weaker reads')
  const word = (on: boolean): string => (on ? 'go on' : 'refused')
  const rows = lines.map((l) => `${word(l.writes).padEnd(7)}  ${word(l.strongReads).padEnd(12)}  ${word(l.weakReads)}`)
  for (const row of new Set(rows))
    say(`${[...new Set([rows.indexOf(row), rows.lastIndexOf(row)])].join('-').padEnd(4)}  ${row}`)
  if (write > Math.floor(members / 2) + 1)
    fitted(
      `Transactions that are just being committed when one of the ${write} is lost ` +
        `keep their rows locked until ${count(write, 'replica')} can be reached again; reads of these rows wait.`,
      0,
    ).forEach(say)
  process.exitCode = EXIT.fine
}
