"""A small shop on Django, in one file: an order and its notification are committed together.

`SHOP_DATABASE` is the SQLite file of Tidings, which reads its own settings.
"""

import json
import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY="only for the example",  # noqa: S106  # signs nothing here
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SHOP_DATABASE"],
            # take the write lock when a transaction begins, as Tidings does
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
    USE_TZ=True,
)
django.setup()

from shared_connection import share_transaction  # noqa: E402  # needs the settings above

from tidings import Tidings  # noqa: E402

tidings = Tidings.from_env()


class Product(models.Model):
    """A product and its stock."""

    sku = models.CharField(max_length=40, primary_key=True)
    stock = models.PositiveIntegerField()

    class Meta:
        app_label = "shop"


class Order(models.Model):
    """An order of one product. The customer is a user of Tidings."""

    number = models.CharField(max_length=40, primary_key=True)
    customer = models.CharField(max_length=200)
    sku = models.CharField(max_length=40)

    class Meta:
        app_label = "shop"


def add_product(request: HttpRequest) -> JsonResponse:
    """Add a product: `{"sku": "cup", "stock": 1}`."""
    product = Product.objects.create(**json.loads(request.body))
    return JsonResponse({"sku": product.sku}, status=201)


def place_order(request: HttpRequest) -> JsonResponse:
    """Store an order and notify its customer, or do neither: `{"number": "1", "customer": "ana", "sku": "cup"}`."""
    order = Order(**json.loads(request.body))
    with transaction.atomic():
        order.save(force_insert=True)
        with share_transaction() as shared:
            notification = tidings.notify_sync(
                "ORDER_CREATED",
                to=order.customer,
                variables={"orderId": order.number, "orderNumber": order.number, "total": 12, "currency": "EUR"},
                source=f"shop:{order.number}",
                conn=shared,
            )
        in_stock = Product.objects.filter(sku=order.sku, stock__gt=0)
        if not in_stock.update(stock=models.F("stock") - 1):
            # the order and the notification above are rolled back
            transaction.set_rollback(True)
            return JsonResponse({"detail": "the product is sold out"}, status=409)
    return JsonResponse({"order": order.number, "notification": notification}, status=201)


urlpatterns = [path("products", add_product), path("orders", place_order)]

with connection.schema_editor() as editor:
    present = set(connection.introspection.table_names())
    for model in (Product, Order):
        if model._meta.db_table not in present:
            editor.create_model(model)
application = get_asgi_application()
