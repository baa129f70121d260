// The house rules, held by a machine: which room may import which, who may touch the clock, chance and pg, how long
// a file may be. The rules are functions of (path inside driver/, text), so the control below can show that each of
// them bites.
import { readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { expect } from 'chai'
import ts from 'typescript'

const ROOT = join(import.meta.dirname, '../driver')
const EVERYTHING = /^/
/**
 * Room → what it may import besides itself: a pattern on the path inside driver/. A room that is not listed may not
 * exist.
 */
const MAY_IMPORT: Record<string, RegExp> = {
  protocol: /^errors$/,
  sql: /^protocol\//,
  replica: /^(protocol\/|errors$|runtime$)/,
  schema: /^(replica\/|errors$|runtime$)/,
  transaction: /^(repair\/|replica\/|protocol\/|errors$|runtime$)/,
  repair: /^(transaction\/(cluster|hold)$|replica\/|schema\/|protocol\/|errors$|runtime$)/,
  pool: /^(?!cli\/|embedded\/)/,
  cli: EVERYTHING,
  embedded: /^$/,
  index: /^(pool\/|protocol\/|config$|errors$)/,
  config: /^(errors|protocol\/dial|transaction\/cluster)$/,
  errors: /^$/,
  runtime: /^$/,
}
const PG_AT_RUN_TIME = /^(replica|pool|embedded|cli)\/|^schema\/install\.ts$/
const CLOCK_AND_CHANCE =
  /^(Date\.now|Math\.random|performance\.now|(new )?Date|(\w+\.)?(setTimeout|setInterval|randomInt))$/
const TIMER = /^(\w+\.)?(setTimeout|setInterval)$/
const MAX_LINES = 370

function violations(path: string, text: string): string[] {
  const found: string[] = []
  const room = path.split('/')[0]!.replace(/\.ts$/, '')
  const allowed = MAY_IMPORT[room]
  if (!allowed) found.push(`${path}: the room ${room} is not in the house`)
  if (/(^|[/-])(utils|helpers|types|manager)(?=[/.-])/.test(path)) found.push(`${path}: a name that says nothing`)
  const lines = text.replace(/\n$/, '').split('\n').length
  if (lines > MAX_LINES) found.push(`${path}: ${lines} lines, ${MAX_LINES} are allowed`)

  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  const say = (node: ts.Node, what: string): void => {
    found.push(`${path}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}: ${what}`)
  }
  const imports = (node: ts.Node, from: string, typeOnly: boolean): void => {
    const target = from.startsWith('.') ? posix.join(posix.dirname(path), from).replace(/\.ts$/, '') : undefined
    if (target !== undefined && !target.startsWith(`${room}/`) && !allowed?.test(target))
      say(node, `${room} may not import ${target}`)
    if (target !== undefined && room === 'config' && target !== 'errors' && !typeOnly)
      say(node, `config may import only types of ${target}`)
    if (target === undefined && room === 'protocol') say(node, `protocol may not import ${from}`)
    if (/^pg(\/|$)/.test(from) && !typeOnly && !PG_AT_RUN_TIME.test(path)) say(node, 'pg at run time')
    if (/^(node:)?timers/.test(from) && !['runtime', 'embedded', 'cli'].includes(room))
      say(node, `${from}: ask runtime.ts`)
  }
  const clock = (node: ts.Node, name: string): void => {
    if (room === 'runtime' || room === 'embedded' || (room === 'cli' && TIMER.test(name))) return
    if (CLOCK_AND_CHANCE.test(name)) say(node, `${name}: ask runtime.ts`)
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node))
      imports(
        node,
        (node.moduleSpecifier as ts.StringLiteral).text,
        node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword,
      )
    if (ts.isExportDeclaration(node) && node.moduleSpecifier)
      imports(node, (node.moduleSpecifier as ts.StringLiteral).text, node.isTypeOnly)
    if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument))
      imports(node, (node.argument.literal as ts.StringLiteral).text, true)
    if (ts.isImportSpecifier(node)) {
      const name = (node.propertyName ?? node.name).text
      if (name === 'randomInt' && room !== 'runtime') say(node, 'randomInt: ask runtime.ts')
    }
    if (ts.isCallExpression(node)) {
      const [first] = node.arguments
      if (node.expression.kind === ts.SyntaxKind.ImportKeyword && first && ts.isStringLiteralLike(first))
        imports(node, first.text, false)
      clock(node, node.expression.getText())
    }
    if (ts.isNewExpression(node)) clock(node, `new ${node.expression.getText()}`)
    if (
      room === 'protocol' &&
      (node.kind === ts.SyntaxKind.AsyncKeyword ||
        node.kind === ts.SyntaxKind.AwaitKeyword ||
        ts.isAwaitExpression(node))
    )
      say(node, 'protocol is pure: no async')
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

describe('tidy', () => {
  it('driver/ keeps the rules of the house', () => {
    const files = readdirSync(ROOT, { recursive: true, encoding: 'utf8' })
      .filter((f) => f.endsWith('.ts'))
      .map((f) => f.replaceAll('\\', '/'))
    expect(files).to.include.members(['index.ts', 'protocol/quorum.ts', 'replica/postgres.ts'])
    const found = files.sort().flatMap((f) => violations(f, readFileSync(join(ROOT, f), 'utf8')))
    expect(found, `\n${found.join('\n')}\n`).to.deep.equal([])
  })

  // [path, text, what must be said]; without these a rule that never fires would look like a clean house
  const bad: [path: string, text: string, says: string][] = [
    ['protocol/x.ts', `import type { A } from '../replica/replica.ts'`, 'may not import replica/replica'],
    ['protocol/x.ts', `import { join } from 'node:path'`, 'may not import node:path'],
    ['protocol/x.ts', 'export async function f() { return 1 }', 'no async'],
    ['protocol/x.ts', 'await f', 'no async'],
    ['sql/x.ts', `import '../errors.ts'`, 'may not import errors'],
    ['replica/x.ts', `export * from '../transaction/cluster.ts'`, 'may not import transaction/cluster'],
    ['schema/x.ts', `import pg from 'pg'`, 'pg at run time'],
    ['schema/x.ts', `type T = import('../pool/pool.ts').Pool`, 'may not import pool/pool'],
    ['transaction/x.ts', `import pg, { type Client } from 'pg'`, 'pg at run time'],
    ['transaction/x.ts', `import '../config.ts'`, 'may not import config'],
    ['repair/x.ts', `import { commit } from '../transaction/commit.ts'`, 'may not import transaction/commit'],
    ['repair/x.ts', `import { randomInt } from 'node:crypto'`, 'randomInt'],
    ['repair/x.ts', 'crypto.randomInt(3)', 'randomInt'],
    ['pool/x.ts', `await import('../embedded/embedded.ts')`, 'may not import embedded/embedded'],
    ['pool/x.ts', `import { setTimeout as s } from 'node:timers/promises'`, 'node:timers/promises'],
    ['config.ts', `import pg from 'pg'`, 'pg at run time'],
    ['config.ts', `import { Cluster } from './transaction/cluster.ts'`, 'only types'],
    ['embedded/x.ts', `import '../runtime.ts'`, 'may not import runtime'],
    ['cli/x.ts', 'Date.now()', 'Date.now'],
    ...[
      'Date.now()',
      'new Date(0)',
      'setTimeout(f, 1)',
      'globalThis.setTimeout(f)',
      'setInterval(f)',
      'Math.random()',
      'performance.now()',
    ].map((call): [string, string, string] => ['pool/x.ts', `f(${call})`, 'ask runtime.ts']),
    ['pool/utils.ts', '', 'says nothing'],
    ['pool/lock-manager.ts', '', 'says nothing'],
    ['helpers/x.ts', '', 'not in the house'],
    ['pool/x.ts', '\n'.repeat(MAX_LINES + 2), 'lines'],
  ]
  for (const [path, text, says] of bad) {
    it(`control: ${path} with ${JSON.stringify(text.slice(0, 60))}`, () =>
      expect(violations(path, text).join('\n')).to.include(says))
  }
  it('control: what is allowed is not reported', () => {
    const good: [string, string][] = [
      [
        'pool/x.ts',
        `import pg from 'pg'\nimport { resolve } from '../repair/resolve.ts'\n// Date.now() in a comment\nconst s = 'setTimeout('`,
      ],
      ['config.ts', `import type pg from 'pg'\nimport type { Limits } from './transaction/cluster.ts'`],
      ['transaction/x.ts', `import type { QueryResult } from 'pg'\nimport { a } from './locks.ts'\n`],
      ['runtime.ts', `import { randomInt } from 'node:crypto'\nperformance.now()`],
      ['cli/x.ts', 'setTimeout(f, 1)'],
      ['embedded/x.ts', 'Date.now()'],
    ]
    for (const [path, text] of good) expect(violations(path, text)).to.deep.equal([])
  })
})
