/** The client by itself: connecting, ending, its events, fields and small helpers. */
import { expect } from 'chai'
import pg from 'pg'
import { failure } from '../cluster.ts'
import { both, called, heard, pause } from './both.ts'

both('the client', (kind) => {
  let client: pg.Client
  before(async () => {
    client = kind.client()
    await client.connect()
  })

  it('connect resolves to the client, says connect; end says end', async () => {
    const mine = kind.client()
    const said = heard(mine, 'connect', 'end', 'error')
    expect(await mine.connect()).to.equal(mine)
    expect(said).to.deep.equal(['connect'])
    await mine.end()
    await pause(20)
    expect(said).to.deep.equal(['connect', 'end'])
  })
  it('connect and end by callback', async () => {
    const mine = kind.client()
    const { callback, once } = called<[Error | null, pg.Client]>()
    mine.connect(callback as never)
    const [error, same] = await once
    expect(error).to.equal(null)
    expect(same).to.equal(mine)
    const ended = called()
    mine.end(ended.callback)
    await ended.once
  })
  it('connect twice', async () => {
    expect((await failure(client.connect())).message).to.match(/already been connected/)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('end before connect, end twice, a query after end', async () => {
    await kind.client().end()
    const mine = kind.client()
    await mine.connect()
    await mine.end()
    await mine.end()
    expect((await failure(mine.query('SELECT 1'))).message).to.match(/closed|not queryable/)
  })
  it('end in the middle of a query', async () => {
    const mine = kind.client()
    await mine.connect()
    const running = failure(mine.query('SELECT pg_sleep(5)'))
    await pause(50)
    await mine.end()
    expect(await running).to.be.instanceOf(Error)
  })
  it('a wrong database, a wrong user', async () => {
    const wrong = await failure(kind.client({ database: 'nowhere', connectionTimeoutMillis: 3000 }).connect())
    expect(wrong.message).to.match(/database "nowhere" does not exist/)
    expect((await failure(kind.client({ user: 'nobody_here' }).connect())).message).to.match(
      /role "nobody_here" does not exist/,
    )
  })
  it('drain is said once, when all is done', async () => {
    const said = heard(client, 'drain')
    await Promise.all([
      client.query('SELECT 1'),
      client.query('SELECT 2'),
      client.query("SELECT count(*) FROM pg_class WHERE relname = 'x'"),
    ])
    await pause(10)
    expect(said.length).to.equal(1)
  })
  it('notice', async () => {
    const notices: unknown[] = []
    const listen = (notice: { message?: string | undefined; severity?: string | undefined }): void =>
      void notices.push([notice.severity, notice.message])
    client.on('notice', listen)
    await client.query("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$")
    client.removeListener('notice', listen)
    expect(notices).to.deep.equal([
      ['NOTICE', 'hello 1'],
      ['WARNING', 'careful'],
    ])
  })
  it('getTransactionStatus', async () => {
    const mine = kind.client()
    expect(mine.getTransactionStatus()).to.equal(null)
    await mine.connect()
    expect(mine.getTransactionStatus()).to.equal('I')
    await mine.query('BEGIN')
    expect(mine.getTransactionStatus()).to.equal('T')
    await mine.query('ROLLBACK')
    expect(mine.getTransactionStatus()).to.equal('I')
  })
  it('escapeIdentifier, escapeLiteral', () => {
    expect(client.escapeIdentifier('a"b')).to.equal('"a""b"')
    expect(client.escapeLiteral("it's \\")).to.equal(" E'it''s \\\\'")
  })
  it('fields that others read', () => {
    expect(client.user).to.equal('postgres')
    expect(client.database).to.equal('postgres')
    expect(client.host).to.be.a('string')
    expect(client.port).to.be.a('number')
    expect((client as unknown as { processID: number }).processID).to.be.a('number')
    expect(Object.keys(client)).not.to.include('password')
    expect((client as unknown as { connectionParameters: { user: string } }).connectionParameters.user).to.equal(
      'postgres',
    )
  })
  it('ref and unref', async () => {
    const { ref, unref } = client as unknown as { ref(): void; unref(): void }
    unref.call(client)
    ref.call(client)
    expect((await client.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('parameterStatus is heard by who listens before connecting', async () => {
    const mine = kind.client()
    const seen: Record<string, string> = {}
    mine.connection.on(
      'parameterStatus',
      (m: { parameterName: string; parameterValue: string }) => (seen[m.parameterName] = m.parameterValue),
    )
    await mine.connect()
    expect(seen['server_version']).to.match(/^\d+/)
    expect(seen['client_encoding']).to.equal('UTF8')
  })
  it('cancel', async () => {
    const mine = kind.client()
    await mine.connect()
    const running = failure(mine.query('SELECT pg_sleep(10)'))
    await pause(100)
    const { processID, secretKey } = mine as unknown as { processID: number; secretKey: number }
    const canceller = new pg.Client({ host: mine.host, port: mine.port, user: 'postgres' })
    const { connection } = canceller as unknown as {
      connection: {
        connect(port: number, host: string): void
        on(event: string, f: () => void): void
        cancel(p: number, s: number): void
      }
    }
    connection.on('connect', () => connection.cancel(processID, secretKey))
    connection.on('error', () => undefined)
    connection.connect(mine.port, mine.host)
    expect((await running).code).to.equal('57014')
    expect((await mine.query('SELECT 1 AS one')).rows).to.deep.equal([{ one: 1 }])
  })
  it('the client’s class is a pg.Client', () => expect(client).to.be.instanceOf(pg.Client))
})
