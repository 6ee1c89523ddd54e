// A stock libp2p node with nothing of Warren in it but protocol names.
//
//   node peer.mjs dial   '{"address", "kad", "find", "open": [protocol], "topic"}'
//   node peer.mjs listen '{"kad", "topic"}'        until standard input ends
//
// Prints a JSON line per step: {"step", "ok": true, …} or {"step", "ok": false, "error"}. Every step has a time limit.
import './node18.mjs'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { gossipsub } from '@chainsafe/libp2p-gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const STEP_LIMIT_MS = 15_000

const [mode, text] = process.argv.slice(2)
const wanted = JSON.parse(text)

const say = line => process.stdout.write(`${JSON.stringify(line)}\n`)

/** Runs one step, says how it went, and gives its result, or undefined where it failed. */
const step = async (name, run, shown = result => result) => {
  try {
    const result = await run(AbortSignal.timeout(STEP_LIMIT_MS))
    say({ step: name, ok: true, ...shown(result) })
    return result
  } catch (error) {
    say({ step: name, ok: false, error: `${error.name}: ${error.message}` })
  }
}

const identity = ({ agentVersion, protocolVersion, protocols, listenAddrs }) =>
  ({ agent: agentVersion, version: protocolVersion, protocols, addresses: listenAddrs.map(String) })

const start = addresses => createLibp2p({
  addresses: { listen: addresses },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    // Its own default drops private addresses, and all of ours are.
    dht: kadDHT({ protocol: wanted.kad, clientMode: addresses.length === 0, peerInfoMapper: passthroughMapper }),
    pubsub: gossipsub()
  }
})

/** The routing table takes a peer in once it has answered; a lookup before that asks nobody. */
const routed = (node, connection, signal) => new Promise((resolve, reject) => {
  const table = node.services.dht.routingTable
  const gone = () => reject(new Error('the connection is closed'))
  if (connection.status !== 'open') gone()
  node.addEventListener('connection:close', gone)
  signal.addEventListener('abort', () => reject(new Error('the peer never entered the routing table')))
  table.addEventListener('peer:add', () => resolve())
  if (table.size > 0) resolve()
})

/** A node identifies whom it connects to by itself. */
const identified = (node, signal) => new Promise((resolve, reject) => {
  node.addEventListener('peer:identify', ({ detail }) => resolve(detail))
  node.addEventListener('connection:close', () => reject(new Error('the connection is closed')))
  signal.addEventListener('abort', () => reject(new Error('the peer was never identified')))
})

/** What is remembered of a peer: nothing, of one that said nothing. */
const remembered = async (node, peer) => {
  const known = await node.peerStore.has(peer) ? await node.peerStore.get(peer) : undefined
  const agent = known?.metadata.get('AgentVersion')
  return { agent: agent && new TextDecoder().decode(agent), protocols: known?.protocols ?? [] }
}

const dial = async node => {
  node.services.pubsub.subscribe(wanted.topic)
  const identifying = identified(node, AbortSignal.timeout(2 * STEP_LIMIT_MS))
  identifying.catch(() => {}) // Reported below, once the dial is.
  const connection = await step('dial', signal => node.dial(multiaddr(wanted.address), { signal }),
    ({ remotePeer, multiplexer }) => ({ peer: String(remotePeer), multiplexer }))
  if (connection === undefined) return
  await step('identify', () => identifying, identity)
  await step('find', async signal => {
    await routed(node, connection, signal)
    return node.peerRouting.findPeer(peerIdFromString(wanted.find), { signal })
  }, ({ id, multiaddrs }) => ({ peer: String(id), addresses: multiaddrs.map(String) }))
  // After the lookup: entering the routing table takes a ping too, and a rust-libp2p node answers the latest one only.
  await step('ping', signal => node.services.ping.ping(connection.remotePeer, { signal }), rtt => ({ rtt }))
  for (const protocol of wanted.open) {
    await step(`open ${protocol}`, async signal => {
      // Several protocols are negotiated to the end before the stream is given; a single one only when it is used.
      const stream = await connection.newStream([protocol, '/nobody/speaks/this'], { signal })
      stream.abort(new Error('it was only to see if it opens'))
      return stream.protocol
    }, protocol => ({ protocol }))
  }
  await step('gossip', async () => ({
    peers: node.services.pubsub.getPeers().map(String),
    subscribers: node.services.pubsub.getSubscribers(wanted.topic).map(String)
  }))
  await step('remembered', () => remembered(node, connection.remotePeer))
  await step('connection', async () => ({ status: connection.status }))
}

const listen = async node => {
  node.services.pubsub.subscribe(wanted.topic)
  node.addEventListener('peer:identify', ({ detail }) => say({ step: 'identify', ok: true, ...identity(detail) }))
  node.addEventListener('connection:close', ({ detail }) => {
    remembered(node, detail.remotePeer).then(known => say({ step: 'closed', ok: true, ...known }))
  })
  say({ step: 'listening', ok: true, addresses: node.getMultiaddrs().map(String) })
  process.stdin.resume()
  await new Promise(resolve => process.stdin.once('end', resolve))
}

const modes = { dial: { run: dial, addresses: [] }, listen: { run: listen, addresses: ['/ip4/127.0.0.1/tcp/0'] } }
const { run, addresses } = modes[mode]
const node = await start(addresses)
await run(node)
await node.stop()
process.exit(0)
