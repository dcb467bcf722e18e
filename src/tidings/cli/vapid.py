"""`tidings vapid`: the keys that identify this server to push services (RFC 8292)."""

from base64 import urlsafe_b64encode

from cyclopts import App

from tidings.cli.options import Options
from tidings.cli.output import print_json, print_table

app = App(name="vapid", help="Show and rotate the keys that identify this server to push services.")


@app.command
async def show(*, options: Options = Options()) -> None:
    """Show the public keys; the private ones never leave the database."""
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        keys = [
            {
                "keyId": key.id,
                "publicKey": urlsafe_b64encode(key.public).rstrip(b"=").decode(),
                "createdAt": key.created_at,
                "retiredAt": key.retired_at,
            }
            for key in await runtime.store.vapid_keys.all(tx)
        ]
    if options.json:
        print_json({"subject": runtime.settings.vapid_subject, "keys": keys})
    else:
        rows = [(key["keyId"], key["createdAt"], key["retiredAt"]) for key in keys]
        print_table(("key id", "created", "retired"), rows, empty="No key yet: it is made at the first start.")
        # 87 characters that people copy: on lines of their own, whatever the terminal's width
        for key in keys:
            print(f"Public key {key['keyId']}:\n{key['publicKey']}\n")
        print(f"Contact given to push services: {runtime.settings.vapid_subject} (TIDINGS_VAPID_SUBJECT)")


@app.command
async def rotate(*, options: Options = Options()) -> None:
    """Add a key for new subscriptions; a running server takes it over within ten seconds.

    Subscriptions keep the key they were made with. Each browser changes over at its next visit, and the old key is
    retired when its last subscription is gone.
    """
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime:
        key = await runtime.rotate_keys()
        async with runtime.store.read() as tx:
            waiting = sum(number for key_id, number in (await runtime.store.vapid_keys.in_use(tx)).items())
    if options.json:
        print_json({"keyId": key.id, "onOlderKeys": waiting})
    else:
        print(f"New key: {key.id}. {waiting} subscriptions change over when their browsers visit next.")
