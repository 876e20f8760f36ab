"""The 300 words that scenes carry, and the printing of one word into a box."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import Float32s

WORDS: tuple[str, ...] = tuple(
    """
    ACORN ACTOR ALBUM AMBER ANCHOR ANGEL ANKLE APPLE APRIL APRON ARENA ARROW ATLAS AUTUMN BABY
    BACON BADGE BAG BAKER BALL BAMBOO BANANA BAND BANJO BANK BARN BASIL BASKET BAT BATH BEACH BEAR
    BELL BENCH BIRD BISHOP BLANKET BOAT BONE BOOK BOOT BOTTLE BOWL BOX BRANCH BREAD BRICK BRIDGE
    BROOM BRUSH BUCKET BUS BUTTER BUTTON CABIN CABLE CACTUS CAKE CAMEL CAMERA CANDLE CANDY CANOE
    CARBON CARD CARPET CARROT CASTLE CAT CAVE CEILING CELLAR CHAIN CHAIR CHALK CHEESE CHERRY CHESS
    CIDER CINEMA CLAY CLIFF CLOCK CLOUD CLOVER COAT COCOA COFFEE COIN COMB COMET COPPER CORAL CORN
    COTTON COUCH CRANE CROWN CUP CURTAIN DAISY DANCE DAWN DESERT DESK DIARY DINNER DOCTOR DOG DOLL
    DOOR DRAGON DRAWER DRUM DUCK EAGLE EARTH ECHO EGG ELBOW ENGINE FABRIC FARM FEATHER FENCE FERRY
    FIDDLE FINGER FIRE FISH FLAG FLOUR FLUTE FOG FOREST FORK FOX FROG FRUIT GALAXY GARDEN GARLIC
    GATE GHOST GINGER GLASS GLOVE GOAT GOLD GRAPE GRASS GUITAR HAMMER HARBOR HAT HAWK HELMET HILL
    HONEY HOOK HORSE HOTEL HOUSE IRON ISLAND IVORY JACKET JELLY JEWEL JUICE JUNGLE KETTLE KEY KING
    KITCHEN KITE KNIFE LADDER LAKE LAMP LANTERN LEAF LEMON LETTER LIBRARY LIGHT LILY LION LIZARD
    LOCK MAGNET MAP MARBLE MARKET MASK MEADOW MELON METAL MILK MIRROR MITTEN MONKEY MOON MOTOR
    MOUSE MUSEUM MUSIC NAPKIN NEEDLE NEST NIGHT NOODLE OASIS OCEAN OFFICE OLIVE ONION ORBIT ORCHID
    OTTER OVEN OWL PAINT PALACE PANDA PAPER PARK PARROT PEACH PEARL PENCIL PEPPER PIANO PIG PILLOW
    PIRATE PLANET PLATE POCKET POND PONY POTATO PRINCE PUMPKIN PUPPY QUEEN QUILT RABBIT RADIO RAIN
    RIBBON RICE RIVER ROBOT ROCKET ROOF ROPE ROSE SADDLE SAIL SALAD SALT SAND SCHOOL SHEEP SHIP
    SHOE SILVER SNAIL SNOW SOAP SOCK SOUP SPIDER SPOON STONE STORM SUGAR SUMMER SUN SWAN TABLE
    TENT TIGER TOAST TOWER TRAIN TREE TURTLE VALLEY VIOLIN WAGON WATER WHALE WHEEL WINDOW WINTER
    WOLF YARN ZEBRA
    """.split()  # noqa: SIM905 - a list of 300 strings would bury the words
)

_FONT_SIZE = 64  # large, so that shrinking to the box smooths the edges


@lru_cache(maxsize=len(WORDS))
def _printed(word: str) -> Image.Image:
    """The ink of a word, cropped to its outline, so that its box is exactly its quad."""
    font = ImageFont.load_default(_FONT_SIZE)
    left, top, right, bottom = (round(side) for side in font.getbbox(word))
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text(
        (-left, -top), word, fill=255, font=font, stroke_width=1, stroke_fill=255
    )
    return ink.crop(ink.getbbox())


def aspect_of(word: str) -> float:
    """Width over height of the printed word."""
    ink = _printed(word)
    return ink.width / ink.height


@lru_cache(maxsize=len(WORDS))
def letter_ends(word: str) -> tuple[float, ...]:
    """Where each letter ends, as shares of the printed word's width."""
    font = ImageFont.load_default(_FONT_SIZE)
    width = font.getlength(word)
    return tuple(font.getlength(word[: count + 1]) / width for count in range(len(word)))


def word_mask(word: str, width: int, height: int) -> Float32s:
    """How much ink each pixel of a box carries, 0 to 1, [height, width]."""
    ink = _printed(word)
    method = Image.Resampling.BOX if height < ink.height else Image.Resampling.BICUBIC
    return np.asarray(ink.resize((width, height), method), dtype=np.float32) / np.float32(255)
