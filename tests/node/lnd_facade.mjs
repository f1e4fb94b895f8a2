// Two LDK nodes with a channel over TCP, each behind a small REST interface in LND's shape.
//
//   node lnd_facade.mjs CERTIFICATE KEY MACAROON_HEX MACAROON_HEX
//
// Prints {"urls": [payer, payee]}; then reads {"mine": BLOCKS} and answers {"height": HEIGHT}, a
// line each.  Real HTLCs are locked, settled and given back.  A lock is shown as ending 18 blocks
// after LDK gives it back by itself, which is what LND's clients reckon with.

import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as https from "node:https";
import * as readline from "node:readline";
import { hex, ldk, LdkNode, load, NETWORK, sha256, some, value } from "./ldk_node.mjs";

const CAPACITY_SAT = 16_000_000n;
const AUTO_CANCEL_BLOCKS = 18; // LND's
const [certificate, key, ...macaroons] = process.argv.slice(2);
const b64 = (bytes) => Buffer.from(bytes).toString("base64");
const seconds = () => Date.now() / 1000;
const soon = () => new Promise((resolve) => setTimeout(resolve, 2));

async function until(done) {
  for (const end = seconds() + 20; !done(); await soon()) {
    if (seconds() > end) throw new Error(`not in time: ${done}`);
  }
}

class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

class Lnd {
  constructor() {
    this.invoices = new Map();
    this.payments = new Map();
    this.listeners = new Set();
    this.events = [];
    this.node = new LdkNode(new Uint8Array(crypto.randomBytes(32)), (event) => this.on(event));
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  on(event) {
    const named = event.payment_hash; // of some events an option
    const hash = named && hex(named instanceof Uint8Array ? named : some(named));
    if (event instanceof ldk.Event_PaymentClaimable) this.claimable(hash, event);
    else if (event instanceof ldk.Event_PaymentClaimed) {
      const invoice = this.invoices.get(hash);
      invoice.state = "SETTLED";
      invoice.htlcs.forEach((htlc) => { htlc.state = "SETTLED"; });
    } else if (event instanceof ldk.Event_PaymentSent) {
      const preimage = hex(event.payment_preimage);
      Object.assign(this.payments.get(hash), { status: "SUCCEEDED", preimage });
    } else if (event instanceof ldk.Event_PaymentFailed) {
      const reason = "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS";
      Object.assign(this.payments.get(hash), { status: "FAILED", reason });
    } else this.events.push(event);
    this.changed();
  }

  claimable(hash, event) {
    const invoice = this.invoices.get(hash);
    if (invoice?.state !== "OPEN") {
      this.node.manager.fail_htlc_backwards(event.payment_hash);
      return;
    }
    invoice.state = "ACCEPTED";
    invoice.deadline = some(event.claim_deadline);
    const [htlc] = this.node.channel.get_pending_inbound_htlcs()
      .filter((one) => hex(one.get_payment_hash()) === hash);
    lockMargin = htlc.get_cltv_expiry() - invoice.deadline - AUTO_CANCEL_BLOCKS;
    invoice.htlcs = [{
      state: "ACCEPTED",
      amt_msat: event.amount_msat.toString(),
      expiry_height: invoice.deadline + AUTO_CANCEL_BLOCKS,
      accept_height: height,
    }];
    if (invoice.preimage) this.node.manager.claim_funds(invoice.preimage);
  }

  expire() {
    for (const invoice of this.invoices.values()) {
      const unpaid = invoice.state === "OPEN" && invoice.ends <= seconds();
      // LDK has given it back at this height.
      const late = invoice.state === "ACCEPTED" && invoice.deadline <= height;
      if (unpaid || late) this.end(invoice);
    }
  }

  end(invoice) {
    invoice.state = "CANCELED";
    invoice.htlcs.forEach((htlc) => { htlc.state = "CANCELED"; });
    this.changed();
  }

  find(hash) {
    this.expire();
    const invoice = this.invoices.get(hex(hash));
    if (!invoice) throw new Refusal(5, "unable to locate invoice");
    return invoice;
  }

  add(hash, preimage, { value_msat, memo, expiry, cltv_expiry }) {
    if (hash.length !== 32) throw new Refusal(3, `invalid hash length of ${hash.length}`);
    if (this.invoices.has(hex(hash))) throw new Refusal(2, "invoice with payment hash already exists");
    // LDK dates an invoice by the newest block.
    if (blockTime < Math.floor(seconds())) mine(1);
    const text = value(
      ldk.UtilMethods.constructor_create_invoice_from_channelmanager_with_payment_hash(
        this.node.manager, ldk.Option_u64Z.constructor_some(BigInt(value_msat)), memo,
        Number(expiry), new Uint8Array(hash), ldk.Option_u16Z.constructor_some(Number(cltv_expiry)),
      ),
    ).to_str();
    const ends = seconds() + Number(expiry);
    this.invoices.set(hex(hash), { text, hash, preimage, ends, state: "OPEN", htlcs: [] });
    return { payment_request: text, add_index: "1", payment_addr: "" };
  }

  async settle(preimage) {
    const invoice = this.find(sha256(preimage));
    if (invoice.state === "OPEN") throw new Refusal(2, "invoice still open");
    if (invoice.state === "CANCELED") throw new Refusal(2, "invoice already canceled");
    this.node.manager.claim_funds(new Uint8Array(preimage));
    await until(() => invoice.state === "SETTLED");
    return {};
  }

  cancel(hash) {
    const invoice = this.find(hash);
    if (invoice.state === "SETTLED") throw new Refusal(2, "invoice already settled");
    if (invoice.state === "ACCEPTED") this.node.manager.fail_htlc_backwards(new Uint8Array(hash));
    this.end(invoice);
    return {};
  }

  send({ payment_request, fee_limit_msat, cltv_limit }) {
    const invoice = value(ldk.Bolt11Invoice.constructor_from_str(payment_request));
    const [hash, amount] = [invoice.payment_hash(), some(invoice.amount_milli_satoshis())];
    const known = this.payments.get(hex(hash));
    if (known?.status === "SUCCEEDED") throw new Refusal(6, "invoice is already paid");
    if (known?.status === "IN_FLIGHT") throw new Refusal(6, "payment is in transition");
    const payment = { hash, amount, status: "IN_FLIGHT", preimage: "00".repeat(32) };
    const fail = (reason) => Object.assign(payment, { status: "FAILED", reason });
    if (invoice.would_expire(BigInt(Math.floor(seconds())))) throw new Refusal(2, "invoice expired");
    this.payments.set(hex(hash), payment);
    if (amount > this.balance()) return fail("FAILURE_REASON_INSUFFICIENT_BALANCE");
    const terms = value(ldk.UtilMethods.constructor_payment_parameters_from_invoice(invoice));
    const route = terms.get_c();
    const parameters = route.get_payment_params();
    parameters.set_max_total_cltv_expiry_delta(cltv_limit);
    route.set_payment_params(parameters);
    const limit = ldk.Option_u64Z.constructor_some(BigInt(fee_limit_msat));
    route.set_max_total_routing_fee_msat(limit);
    const begun = this.node.manager.send_payment(
      terms.get_a(), terms.get_b(), hash, route, ldk.Retry.constructor_attempts(1),
    );
    return begun.is_ok() ? payment : fail("FAILURE_REASON_NO_ROUTE");
  }

  balance() {
    return this.node.channel.get_outbound_capacity_msat();
  }

  locks() {
    return this.node.channel.get_pending_outbound_htlcs();
  }

  info() {
    return {
      identity_pubkey: hex(this.node.id),
      block_height: height,
      synced_to_chain: true,
      chains: [{ chain: "bitcoin", network: "regtest" }],
    };
  }

  balances() {
    const amount = (msat) => ({ sat: (msat / 1000n).toString(), msat: msat.toString() });
    const flying = this.locks().reduce((sum, htlc) => sum + htlc.get_amount_msat(), 0n);
    return { local_balance: amount(this.balance()), unsettled_remote_balance: amount(flying) };
  }

  shownInvoice(invoice) {
    const paid = invoice.state === "SETTLED" ? invoice.htlcs[0].amt_msat : "0";
    return {
      payment_request: invoice.text, r_hash: b64(invoice.hash), state: invoice.state,
      amt_paid_msat: paid, htlcs: invoice.htlcs.map((htlc) => ({ ...htlc })),
    };
  }

  shownPayment(payment) {
    const ours = this.locks().filter((htlc) => hex(htlc.get_payment_hash()) === hex(payment.hash));
    return {
      payment_hash: hex(payment.hash), value_msat: payment.amount.toString(),
      status: payment.status, payment_preimage: payment.preimage, fee_msat: "0",
      failure_reason: payment.reason ?? "FAILURE_REASON_NONE",
      htlcs: payment.status !== "IN_FLIGHT" ? [] : ours.map((htlc) => ({
        status: "IN_FLIGHT", route: { hops: [{ expiry: htlc.get_cltv_expiry() - lockMargin }] },
      })),
    };
  }
}

// --- the chain -----------------------------------------------------------------------------------

let height = 0;
let blockTime = 0;
let previous = Buffer.alloc(32);
let lockMargin = 0; // from where a lock is shown to end to where it does

function mine(blocks, transaction) {
  for (let left = blocks; left > 0; left -= 1) {
    height += 1;
    const header = Buffer.alloc(80);
    header.writeInt32LE(0x20000000, 0);
    previous.copy(header, 4);
    crypto.randomBytes(32).copy(header, 36);
    blockTime = Math.floor(seconds());
    header.writeUInt32LE(blockTime, 68);
    header.writeUInt32LE(0x207fffff, 72);
    previous = sha256(sha256(header));
    const first = left === blocks ? transaction : undefined;
    for (const { node } of nodes) node.connect(new Uint8Array(header), height, first);
  }
  for (const lnd of nodes) {
    lnd.expire();
    lnd.changed();
  }
}

function fundingTransaction(script, satoshis) {
  const amount = Buffer.alloc(8);
  amount.writeBigUInt64LE(satoshis);
  const [head, input] = [Buffer.from("02000000000101", "hex"), crypto.randomBytes(32)];
  const tail = Buffer.from("0000000000ffffffff01", "hex");
  const witness = Buffer.from("0101ff00000000", "hex");
  return new Uint8Array(Buffer.concat([
    head, input, tail, amount, Buffer.from([script.length]), script, witness,
  ]));
}

async function openChannel([one, other]) {
  await other.node.net.bind_listener("127.0.0.1", 0);
  const port = other.node.net.servers[0].address().port;
  await one.node.net.connect_peer("127.0.0.1", port, other.node.id);
  await until(() => nodes.every(({ node }) => node.peers.list_peers().length));
  value(one.node.manager.create_channel(
    other.node.id, CAPACITY_SAT, (CAPACITY_SAT / 2n) * 1000n, 1n, null, null,
  ));
  const ready = () => one.events.find((event) => event instanceof ldk.Event_FundingGenerationReady);
  await until(ready);
  const wanted = ready();
  const transaction = fundingTransaction(wanted.output_script, wanted.channel_value_satoshis);
  value(one.node.manager.funding_transaction_generated(
    wanted.temporary_channel_id, wanted.counterparty_node_id, transaction,
  ));
  await until(() => one.node.broadcast.length);
  mine(10, transaction);
  await until(() => nodes.every(({ node }) => node.manager.list_usable_channels().length));
}

// --- REST ----------------------------------------------------------------------------------------

const STATUS = { 2: 500, 3: 400, 5: 404, 6: 409, 16: 401 };
const fromPath = (text) => Buffer.from(decodeURIComponent(text), "base64url");

// A stream: what is, and each change, until an end.
function follow(lnd, response, look, ended) {
  let told = "";
  const tell = () => {
    const [line, over] = [JSON.stringify({ result: look() }), ended()];
    if (line !== told) response.write(`${line}\n`);
    told = line;
    if (over) response.end();
  };
  lnd.listeners.add(tell);
  response.on("close", () => lnd.listeners.delete(tell));
  tell();
}

function followPayment(lnd, response, payment) {
  follow(lnd, response, () => lnd.shownPayment(payment), () => payment.status !== "IN_FLIGHT");
}

async function answer(lnd, method, path, query, body, response) {
  const [, hash] = path.match(/^\/v2\/(?:invoices\/subscribe|router\/track)\/(.+)$/) ?? [];
  switch (`${method} ${hash ? path.slice(0, -hash.length) : path}`) {
    case "GET /v1/getinfo": return lnd.info();
    case "GET /v1/balance/channels": return lnd.balances();
    case "POST /v1/invoices": {
      const preimage = new Uint8Array(Buffer.from(body.r_preimage, "base64"));
      return lnd.add(sha256(preimage), preimage, body);
    }
    case "POST /v2/invoices/hodl": return lnd.add(Buffer.from(body.hash, "base64"), null, body);
    case "POST /v2/invoices/settle": return lnd.settle(Buffer.from(body.preimage, "base64"));
    case "POST /v2/invoices/cancel": return lnd.cancel(Buffer.from(body.payment_hash, "base64"));
    case "GET /v2/invoices/lookup":
      return lnd.shownInvoice(lnd.find(fromPath(query.get("payment_hash"))));
    case "GET /v2/invoices/subscribe/": {
      const invoice = lnd.find(fromPath(hash));
      return follow(lnd, response, () => lnd.shownInvoice(invoice), () => false);
    }
    case "POST /v2/router/send": return followPayment(lnd, response, lnd.send(body));
    case "GET /v2/router/track/": {
      const payment = lnd.payments.get(hex(fromPath(hash)));
      if (!payment) throw new Refusal(5, "payment isn't initiated");
      return followPayment(lnd, response, payment);
    }
    default: throw new Refusal(5, "Not Found");
  }
}

function serve(lnd, macaroon) {
  const tls = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
  const server = https.createServer(tls, async (request, response) => {
    try {
      if (request.headers["grpc-metadata-macaroon"] !== macaroon) {
        throw new Refusal(16, "verification failed: signature mismatch");
      }
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = chunks.length ? JSON.parse(Buffer.concat(chunks)) : {};
      const url = new URL(request.url, "https://x");
      const said = await answer(
        lnd, request.method, url.pathname, url.searchParams, body, response,
      );
      if (said) response.end(JSON.stringify(said));
    } catch (error) {
      const shown = { code: error.code ?? 2, message: error.message, details: [] };
      response.writeHead(STATUS[shown.code] ?? 500);
      response.end(JSON.stringify(shown));
    }
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve(`https://127.0.0.1:${server.address().port}`));
  });
}

await load();
previous = Buffer.from(ldk.BestBlock.constructor_from_network(NETWORK).get_block_hash());
const nodes = [new Lnd(), new Lnd()];
await openChannel(nodes);
const urls = await Promise.all(nodes.map((lnd, place) => serve(lnd, macaroons[place])));
const say = (fact) => process.stdout.write(`${JSON.stringify(fact)}\n`);
say({ urls });
for await (const line of readline.createInterface({ input: process.stdin })) {
  mine(JSON.parse(line).mine);
  say({ height });
}
process.exit(0);
