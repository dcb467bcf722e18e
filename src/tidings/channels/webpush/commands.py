"""`tidings vapid`: show and rotate the VAPID keys (RFC 8292)."""

from cyclopts import App

from tidings.channels.webpush import base64url
from tidings.channels.webpush.server_keys import rotate_keys
from tidings.channels.webpush.settings import load_webpush_settings
from tidings.ports.command_host import CommandHost, CommandOptions


def create_commands(host: CommandHost) -> App:
    """Return the commands."""
    app = App(name="vapid", help="Show and rotate the keys that identify this server to push services.")

    @app.command
    async def show(*, options: CommandOptions = CommandOptions()) -> None:
        """Show the public keys. Private keys never leave the database."""
        async with host.open(options) as context, context.store.read_snapshot() as tx:
            keys = [
                {
                    "keyId": key.id,
                    "publicKey": base64url.encode(key.public),
                    "createdAt": key.created_at,
                    "retiredAt": key.retired_at,
                }
                for key in await context.store.vapid_keys.list_all(tx)
            ]
        subject = load_webpush_settings(context.settings).subject
        if options.json:
            host.print_json({"subject": subject, "keys": keys})
        else:
            rows = [(key["keyId"], key["createdAt"], key["retiredAt"]) for key in keys]
            host.print_table(
                ("key id", "created", "retired"), rows, empty="No key yet: it is created at the first start."
            )
            # 87 characters that people copy: printed on their own lines, whatever the terminal's width
            for key in keys:
                print(f"Public key {key['keyId']}:\n{key['publicKey']}\n")
            print(f"Contact for push services: {subject} (TIDINGS_VAPID_SUBJECT)")

    @app.command
    async def rotate(*, options: CommandOptions = CommandOptions()) -> None:
        """Add a key for new subscriptions; running servers load it within ten seconds.

        Existing subscriptions keep their key, and each browser switches at its next visit. The old key is retired when
        its last subscription is gone.
        """
        async with host.open(options) as context:
            key = await rotate_keys(context)
            async with context.store.read_snapshot() as tx:
                on_older_keys = sum((await context.store.vapid_keys.count_subscriptions(tx)).values())
        if options.json:
            host.print_json({"keyId": key.id, "onOlderKeys": on_older_keys})
        else:
            print(f"New key: {key.id}. {on_older_keys} subscriptions switch at the next visit of their browsers.")

    return app
