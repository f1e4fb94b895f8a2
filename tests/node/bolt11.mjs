// LDK's BOLT 11: one JSON question a line on standard input, one JSON answer a line.
//   {"decode": TEXT}                                      -> the fields, or {"error": WHY}
//   {"make": {amount_msat, description, expiry_s, cltv}}  -> {"text": TEXT}

import * as crypto from "node:crypto";
import * as readline from "node:readline";
import { hex, ldk, LdkNode, load, some, value } from "./ldk_node.mjs";

await load();
const node = new LdkNode(new Uint8Array(crypto.randomBytes(32)), () => {});

function decode(text) {
  const result = ldk.Bolt11Invoice.constructor_from_str(text);
  if (!result.is_ok()) return { error: result.err.constructor.name };
  const invoice = result.res;
  const raw = invoice.into_signed_raw().raw_invoice();
  const metadata = some(invoice.payment_metadata());
  return {
    network: ldk.Currency[invoice.currency()].replace("LDKCurrency_", ""),
    amount_msat: some(invoice.amount_milli_satoshis())?.toString() ?? null,
    timestamp_s: Number(invoice.duration_since_epoch()),
    payment_hash: hex(invoice.payment_hash()),
    payment_secret: hex(invoice.payment_secret()),
    description: raw.description()?.to_str() ?? null,
    expiry_s: Number(invoice.expiry_time()),
    min_final_cltv: Number(invoice.min_final_cltv_expiry_delta()),
    features: hex(invoice.features()?.le_flags() ?? []),
    metadata: metadata === null ? null : hex(metadata),
    payee: hex(invoice.get_payee_pub_key()),
    route_hints: invoice.route_hints().map((hint) => hint.get_a().map((hop) => [
      hex(hop.get_src_node_id()),
      // The bindings have no unsigned numbers.
      BigInt.asUintN(64, hop.get_short_channel_id()).toString(),
      hop.get_fees().get_base_msat() >>> 0,
      hop.get_fees().get_proportional_millionths() >>> 0,
      hop.get_cltv_expiry_delta() & 0xffff,
    ])),
  };
}

function make({ amount_msat, description, expiry_s, cltv }) {
  const amount = amount_msat === null
    ? ldk.Option_u64Z.constructor_none() : ldk.Option_u64Z.constructor_some(BigInt(amount_msat));
  return { text: value(ldk.UtilMethods.constructor_create_invoice_from_channelmanager(
    node.manager, amount, description, expiry_s, ldk.Option_u16Z.constructor_some(cltv),
  )).to_str() };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  const answer = question.make ? make(question.make) : decode(question.decode);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
node.stop();
