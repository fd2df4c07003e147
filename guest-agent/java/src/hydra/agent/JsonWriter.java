package hydra.agent;

import java.lang.reflect.Array;
import java.lang.reflect.Method;
import java.lang.reflect.RecordComponent;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Writes values as compact JSON: maps, iterables, arrays and records; strings, characters and enum constants; numbers,
 * booleans and null. Anything else is refused, as its {@code toString} is hardly what the caller wants.
 */
final class JsonWriter {
    private static final byte[] HEX = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};

    private JsonWriter() {}

    static void write(Bytes out, Object value) throws JsonException {
        write(out, value, 0);
    }

    private static void write(Bytes out, Object value, int depth) throws JsonException {
        if (value == null) {
            out.putAscii("null");
        } else if (value instanceof CharSequence text) {
            string(out, text.toString());
        } else if (value instanceof Number number) {
            number(out, number);
        } else if (value instanceof Boolean truth) {
            out.putAscii(truth ? "true" : "false");
        } else if (value instanceof Character || value instanceof Enum) {
            string(out, key(value));
        } else if (depth == JsonParser.MAX_DEPTH) {
            throw new JsonException("is nested deeper than " + JsonParser.MAX_DEPTH + " levels, or contains itself");
        } else if (value instanceof Map<?, ?> map) {
            map(out, map, depth);
        } else if (value instanceof Iterable<?> items) {
            iterable(out, items, depth);
        } else if (value.getClass().isArray()) {
            array(out, value, depth);
        } else if (value instanceof Record entry) {
            record(out, entry, depth);
        } else {
            throw new JsonException("is a " + value.getClass().getName()
                    + ", which has no JSON form; return a Map, a List, an array, a record, a String, a number, a boolean or null");
        }
    }

    private static void map(Bytes out, Map<?, ?> map, int depth) throws JsonException {
        out.put('{');
        boolean first = true;
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            if (!first) {
                out.put(',');
            }
            first = false;
            String key = key(entry.getKey());
            string(out, key);
            out.put(':');
            try {
                write(out, entry.getValue(), depth + 1);
            } catch (JsonException e) {
                throw e.within("." + key);
            }
        }
        out.put('}');
    }

    private static void iterable(Bytes out, Iterable<?> items, int depth) throws JsonException {
        out.put('[');
        int index = 0;
        for (Object item : items) {
            if (index > 0) {
                out.put(',');
            }
            item(out, item, index++, depth);
        }
        out.put(']');
    }

    private static void array(Bytes out, Object array, int depth) throws JsonException {
        out.put('[');
        int length = Array.getLength(array);
        for (int index = 0; index < length; index++) {
            if (index > 0) {
                out.put(',');
            }
            item(out, Array.get(array, index), index, depth);
        }
        out.put(']');
    }

    private static void item(Bytes out, Object item, int index, int depth) throws JsonException {
        try {
            write(out, item, depth + 1);
        } catch (JsonException e) {
            throw e.within("[" + index + "]");
        }
    }

    private static void record(Bytes out, Record value, int depth) throws JsonException {
        out.put('{');
        boolean first = true;
        for (RecordComponent component : value.getClass().getRecordComponents()) {
            if (!first) {
                out.put(',');
            }
            first = false;
            string(out, component.getName());
            out.put(':');
            try {
                write(out, read(value, component), depth + 1);
            } catch (JsonException e) {
                throw e.within("." + component.getName());
            }
        }
        out.put('}');
    }

    private static Object read(Record value, RecordComponent component) throws JsonException {
        try {
            Method accessor = component.getAccessor();
            accessor.setAccessible(true);
            return accessor.invoke(value);
        } catch (ReflectiveOperationException e) {
            throw new JsonException("cannot be read from its record: " + (e.getCause() == null ? e : e.getCause()));
        }
    }

    private static String key(Object key) throws JsonException {
        if (key instanceof String text) {
            return text;
        }
        if (key instanceof Enum<?> constant) {
            return constant.name();
        }
        if (key instanceof CharSequence || key instanceof Number || key instanceof Boolean || key instanceof Character) {
            return key.toString();
        }
        throw new JsonException("has a key that is "
                + (key == null ? "null" : "a " + key.getClass().getName()) + "; the keys of a JSON object are strings");
    }

    private static void number(Bytes out, Number number) throws JsonException {
        if (number instanceof Double || number instanceof Float) {
            if (!Double.isFinite(number.doubleValue())) {
                throw new JsonException("is " + number + ", which JSON has no form for");
            }
        } else if (!(number instanceof Long || number instanceof Integer || number instanceof Short || number instanceof Byte
                || number instanceof BigInteger || number instanceof BigDecimal
                || number instanceof AtomicInteger || number instanceof AtomicLong)) {
            throw new JsonException("is a " + number.getClass().getName() + ", a kind of number that has no JSON form");
        }
        out.putAscii(number.toString());
    }

    private static void string(Bytes out, String text) {
        out.put('"');
        int length = text.length();
        for (int i = 0; i < length; i++) {
            char c = text.charAt(i);
            if (c >= ' ' && c < 0x7f) {
                if (c == '"' || c == '\\') {
                    out.put('\\');
                }
                out.put(c);
            } else if (c < ' ') {
                control(out, c);
            } else if (c < 0x80) {
                out.put(c);
            } else if (c < 0x800) {
                out.put(0xc0 | c >> 6);
                out.put(0x80 | c & 0x3f);
            } else if (!Character.isSurrogate(c)) {
                out.put(0xe0 | c >> 12);
                out.put(0x80 | c >> 6 & 0x3f);
                out.put(0x80 | c & 0x3f);
            } else if (Character.isHighSurrogate(c) && i + 1 < length && Character.isLowSurrogate(text.charAt(i + 1))) {
                int point = Character.toCodePoint(c, text.charAt(++i));
                out.put(0xf0 | point >> 18);
                out.put(0x80 | point >> 12 & 0x3f);
                out.put(0x80 | point >> 6 & 0x3f);
                out.put(0x80 | point & 0x3f);
            } else {
                // Half of a surrogate pair has no UTF-8 form, but an escape.
                unicodeEscape(out, c);
            }
        }
        out.put('"');
    }

    private static void control(Bytes out, char c) {
        switch (c) {
            case '\n' -> out.putAscii("\\n");
            case '\r' -> out.putAscii("\\r");
            case '\t' -> out.putAscii("\\t");
            default -> unicodeEscape(out, c);
        }
    }

    private static void unicodeEscape(Bytes out, char c) {
        out.putAscii("\\u");
        for (int shift = 12; shift >= 0; shift -= 4) {
            out.put(HEX[c >> shift & 0xf]);
        }
    }
}
