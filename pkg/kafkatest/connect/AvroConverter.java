package tributary;

import io.apicurio.registry.utils.converter.avro.AvroData;
import io.apicurio.registry.utils.converter.avro.AvroDataConfig;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.storage.Converter;

/**
 * Stands in for io.confluent.connect.avro.AvroConverter, which is not on Maven Central: the same frame, the same
 * protocol of the registry, subjects named after the topic, and for what is between Avro and Connect the same code
 * (AvroData), as Apicurio has taken it over.
 */
public final class AvroConverter implements Converter {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final HttpClient http = HttpClient.newHttpClient();
    private final Map<String, Integer> ids = new ConcurrentHashMap<>();
    private final Map<Integer, org.apache.avro.Schema> schemas = new ConcurrentHashMap<>();
    private AvroData data;
    private String registry;
    private String suffix;

    @Override
    public void configure(Map<String, ?> configs, boolean isKey) {
        data = new AvroData(new AvroDataConfig(configs));
        registry = configs.get("schema.registry.url").toString();
        suffix = isKey ? "-key" : "-value";
    }

    @Override
    public byte[] fromConnectData(String topic, Schema schema, Object value) {
        if (schema == null && value == null) {
            return null;
        }
        org.apache.avro.Schema avro = data.fromConnectSchema(schema);
        Object datum = data.fromConnectData(schema, value);
        if (datum == null) {
            return null; // a tombstone
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try {
            out.write(0);
            out.write(ByteBuffer.allocate(4).putInt(id(topic + suffix, avro)).array());
            BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
            new GenericDatumWriter<Object>(avro).write(datum, encoder);
            encoder.flush();
        } catch (IOException e) {
            throw new DataException("cannot write Avro for topic " + topic, e);
        }
        return out.toByteArray();
    }

    @Override
    public SchemaAndValue toConnectData(String topic, byte[] value) {
        if (value == null) {
            return SchemaAndValue.NULL;
        }
        ByteBuffer buffer = ByteBuffer.wrap(value);
        if (buffer.get() != 0) {
            throw new DataException("no schema id in a record of topic " + topic);
        }
        org.apache.avro.Schema avro = schemas.computeIfAbsent(buffer.getInt(), this::schema);
        try {
            Object datum = new GenericDatumReader<Object>(avro)
                    .read(null, DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null));
            return data.toConnectData(avro, datum);
        } catch (IOException e) {
            throw new DataException("cannot read Avro of topic " + topic, e);
        }
    }

    private int id(String subject, org.apache.avro.Schema avro) {
        String text = avro.toString();
        return ids.computeIfAbsent(subject + " " + text, key -> {
            try {
                String body = JSON.writeValueAsString(Map.of("schema", text));
                return JSON.readTree(ask(HttpRequest.newBuilder(URI.create(registry + "/subjects/" + subject + "/versions"))
                        .header("Content-Type", "application/vnd.schemaregistry.v1+json")
                        .POST(HttpRequest.BodyPublishers.ofString(body)))).get("id").asInt();
            } catch (IOException e) {
                throw new DataException("cannot register a schema of " + subject, e);
            }
        });
    }

    private org.apache.avro.Schema schema(int id) {
        try {
            return new org.apache.avro.Schema.Parser().parse(
                    JSON.readTree(ask(HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)))).get("schema").asText());
        } catch (IOException e) {
            throw new DataException("cannot fetch schema " + id, e);
        }
    }

    private String ask(HttpRequest.Builder request) throws IOException {
        try {
            HttpResponse<String> answer = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new IOException("the registry answers " + answer.statusCode() + ": " + answer.body());
            }
            return answer.body();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IOException(e);
        }
    }
}
